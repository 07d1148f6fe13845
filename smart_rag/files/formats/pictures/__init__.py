"""Pictures that Pillow does not read."""
