"""A smaller model from a larger one: fewer layers, narrower ones."""
