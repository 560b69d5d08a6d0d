"""Stage 1, edge: what is measured, in which processes and rounds, beside which reference work."""
