"""A loss from cached targets over chunks of tokens, without logits of all of them."""
