"""Compares the planner with first-fit and best-fit: gaps to proven bounds, and time.

python -m bench.planner [--help]
"""
