"""What a teacher says of the training data, stored once."""
