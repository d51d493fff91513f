"""One training step and what surrounds it: objective, state, optimizer, mesh, loop, checkpoints."""
