"""From examples to batches: order, buckets, packing, and the checkpointable loader."""
