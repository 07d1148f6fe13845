"""Families of models as they are published: how a family is recognised, and what its folders lack or hold besides."""
