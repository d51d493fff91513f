"""Sources, tokenization, bucketing and packing, and the checkpointable loader."""
