"""Runs the plan: the loop that observes, reconciles and acts, and the engines' tasks.

`loop` is the one writer; `engines` holds one task for each engine, `routes` makes the proxy's
table, `watching` looks after devices in the background, `sleeping` knows which models are to sleep.
The use cases of the other rooms read its snapshots.
"""
