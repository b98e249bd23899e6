"""A table of cases: segmented one after the other, resumable, on local processes or a Ray cluster."""
