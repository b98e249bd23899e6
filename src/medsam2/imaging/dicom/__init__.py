"""DICOM: slices of a series become one volume."""
