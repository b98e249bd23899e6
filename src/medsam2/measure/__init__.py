"""What masks measure in the patient: sizes, heartbeats, pictures."""
