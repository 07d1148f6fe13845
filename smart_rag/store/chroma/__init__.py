"""The files of a Chroma folder: who may use them when, and whose rows a collection has."""
