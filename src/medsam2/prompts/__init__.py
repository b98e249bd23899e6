"""What a user points at, as values."""
