"""Where targets come from: a live teacher, or what one has said before."""
