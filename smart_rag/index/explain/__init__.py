"""Explanation of a hit: its matches, and pictures of them."""
