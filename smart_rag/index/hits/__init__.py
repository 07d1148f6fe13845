"""What comes after the scores: which documents of a ranking become hits, and what stands around a hit in its file."""
