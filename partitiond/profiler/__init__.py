"""Measures models: finds the frontier and the knee of each, in few trials of real engines."""
