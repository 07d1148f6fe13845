"""Formats: one module for each kind of file. It reads the text of such a file, or opens its image or its frames."""
