"""A module for each kind of model, and modules that prepare the inputs of models."""
