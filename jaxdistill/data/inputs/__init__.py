"""What examples are read into, by kind of input: batches, subsets and hashes of them."""
