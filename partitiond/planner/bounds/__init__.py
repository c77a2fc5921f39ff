"""Lower and upper bounds of a plan's objective by linear prices.

`placements_lp` pools equal devices, `prices` solves the linear program over them. Any prices prove
a bound, so that a solver that stops early does no harm. The search and the explanation use it.
"""
