"""Measure rankings on labelled queries, and tune the weights to them."""
