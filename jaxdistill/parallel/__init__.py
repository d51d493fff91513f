"""Meshes, rules of sharding, and steps compiled for them."""
