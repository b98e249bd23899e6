"""The server: the published contract and sessions over HTTP, for one model and many callers."""
