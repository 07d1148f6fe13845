"""One module for each kind of model: what it reads, and its forward pass."""
