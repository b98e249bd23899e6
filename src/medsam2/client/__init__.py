"""A server from Python, with the methods of what runs here: no torch is needed."""
