"""Encoders turn texts, images and videos into embeddings."""
