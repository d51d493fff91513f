"""What a config needs on a machine that is not there: memory, time floors, cost, and what fits."""
