"""Loading of a model: its files, its family, its weights, its device."""
