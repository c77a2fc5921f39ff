"""Runs the members of the portfolio and chooses among their plans.

`portfolio` is the entrance: a first plan, CP-SAT on small instances, `planner.columns`, and the
compiled search (`annealing`, `improve`). `nearest` chooses the plan that moves least.
"""
