"""Use a server from Python, with the methods of a local session; torch is not needed."""
