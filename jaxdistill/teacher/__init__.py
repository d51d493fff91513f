"""Where teacher targets come from: a live model or an ensemble of them."""
