"""Projects of scans that people label: states, locks, versions of masks, the clock and what it shows."""
