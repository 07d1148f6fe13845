"""Train an adapter, or the model itself, on labelled queries."""
