"""Content into embeddings: the encoder protocol and the encoders."""
