"""Tasks: what labels and outputs mean, one file each."""
