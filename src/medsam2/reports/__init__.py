"""Pages for people: templates, charts, tables and pictures in HTML that needs nothing else."""
