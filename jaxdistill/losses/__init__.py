"""Pure, unreduced losses on arrays."""
