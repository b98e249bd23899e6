"""Sessions over HTTP: upload once, prompt, see, propagate, export."""
