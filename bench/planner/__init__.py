"""Compares the planner with first-fit, best-fit and plain CP-SAT: gaps to proven bounds, and time.

python -m bench.planner [--help]
"""
