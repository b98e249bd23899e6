"""A second scan of the same patient: where are the lesions of the first one, and how have they changed?"""
