"""Two sets of embeddings into scores, and scores into a ranking."""
