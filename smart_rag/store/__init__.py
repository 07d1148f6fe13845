"""Everything that an index keeps on disk."""
