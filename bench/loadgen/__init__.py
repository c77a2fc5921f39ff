"""Compares the load generator with `vllm bench serve`: `python -m bench.loadgen.compare`."""
