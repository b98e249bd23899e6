"""Generated anatomy with exact masks."""
