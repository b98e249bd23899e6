"""Labelled scans as people keep them: found, checked, split by patient and cut into stacks to train on."""
