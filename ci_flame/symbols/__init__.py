"""Stage 1: addresses and file names -> names."""
