"""Projects of scans that people label: locks, versions of masks, active time, rounds, the report."""
