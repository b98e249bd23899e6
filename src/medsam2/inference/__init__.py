"""Volumes in, masks out."""
