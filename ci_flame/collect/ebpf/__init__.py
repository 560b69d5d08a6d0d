"""Stage 1, edge: samples and waits by our BPF programs, loaded by libbpf or compiled by bcc."""
