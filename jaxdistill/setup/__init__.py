"""What a stage is made of: decided once, from a config and the facts of the data, and assembled."""
