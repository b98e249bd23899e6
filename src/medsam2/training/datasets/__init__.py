"""Labelled scans as people keep them: found, checked, split by patient and cut into a bank to train on."""
