"""Where teacher targets come from: a live model, or its logits over the training data."""
