"""Stage 1, edge: Python stacks by py-spy, which needs no privileges."""
