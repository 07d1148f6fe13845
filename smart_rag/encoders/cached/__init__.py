"""`CachedEncoder`: an encoder that keeps the embeddings of documents in a folder."""
