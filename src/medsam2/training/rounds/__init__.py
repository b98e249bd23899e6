"""Annotation in rounds: fine-tune on corrected masks, propose masks for the scans to correct next."""
