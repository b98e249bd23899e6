"""A project's cases, work and rounds over HTTP, for the annotator's page."""
