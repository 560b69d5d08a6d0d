"""Stage 1, edge: native stacks by `perf record`."""
