"""A teacher's outputs for the training data, stored once."""
