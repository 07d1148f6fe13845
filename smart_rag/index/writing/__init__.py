"""Write documents and files into an index."""
