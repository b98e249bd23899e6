"""The server: the published contract over HTTP, for one model and many callers."""
