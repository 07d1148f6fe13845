"""Formats of training data: files of pairs, the meaning of their columns, and page images in tables."""
