"""Finds and makes the Python environment that carries vLLM, and says where packages come from."""
