"""A run: its stages, what they are assembled from, and the work directory."""
