"""Runs the members of the portfolio and chooses among their plans.

`portfolio` is the entrance: greedy plans, CP-SAT on small instances, and the compiled search
(`annealing`, `improve`) with the market beside it. `nearest` chooses the plan that moves least.
"""
