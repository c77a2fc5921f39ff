"""Finds plans and bounds by columns: a column is the whole content of one device.

`pricing` finds the most valuable column at given prices of replicas, exactly: of all models for a
bound, and of the most promising ones for plans. `fleet` prepares an instance for it. `master` is a
linear program over the columns known so far, whose duals are the prices; `bound` proves from prices
what no plan exceeds. `dive` makes a plan: it fixes the fullest columns, and solves what is left,
again and again. `search` does this for a solve, whose compiled search goes on from the plan.
"""
