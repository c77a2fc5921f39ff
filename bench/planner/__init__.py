"""Compares the planner with first-fit: gaps to proven bounds, and time.

python -m bench.planner [--help]
"""
