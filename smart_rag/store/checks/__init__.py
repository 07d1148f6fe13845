"""Checks of stored files with plain reads, before the code of Chroma and LMDB maps or loads them."""
