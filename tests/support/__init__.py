"""Small models, batches and references that several tests share."""
