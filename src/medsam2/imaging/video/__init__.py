"""Videos: frames in, overlays out."""
