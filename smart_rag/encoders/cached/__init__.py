"""`CachedEncoder`: an encoder that keeps what it has encoded in a folder."""
