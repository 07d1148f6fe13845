"""Pooled and token embeddings, as numbers or as codes."""
