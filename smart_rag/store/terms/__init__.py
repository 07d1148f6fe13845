"""The terms of documents on disk, and the inverted index that is built from them."""
