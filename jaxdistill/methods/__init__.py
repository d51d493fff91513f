"""Ways to distil: one declaration each, known to the config without importing jax."""
