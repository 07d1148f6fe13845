"""Compute scores from two sets of embeddings, and a ranking from scores."""
