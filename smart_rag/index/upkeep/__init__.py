"""What keeps an index in order: check and repair it, write it anew, copy it."""
