"""Draw a box on one slice of a medical scan and get the whole 3D structure."""
