"""Where targets come from: a live teacher, or outputs stored before."""
