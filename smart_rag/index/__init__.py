"""`SmartIndex` and its parts: writing, searching, explaining."""
