"""Stage 1, edge: a collector and metrics by bpftrace."""
