"""Losses straight from hidden states and the last projection, without logits."""
