"""Recognition of text in scans: pages of PDFs without usable text, and image files."""
