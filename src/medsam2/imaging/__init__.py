"""Files to volumes and back, in numpy alone."""
