"""`SmartIndex` and its parts, which write, search and explain."""
