"""Compares admission, fairness and the choice of a replica with load balancers, simulated.

python -m bench.dispatch.policies
"""
