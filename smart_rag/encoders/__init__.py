"""Encoders: texts, images and videos into embeddings."""
