"""From texts to tokens, and the token store."""
