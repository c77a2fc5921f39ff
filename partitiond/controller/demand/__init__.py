"""Acts on demand: plans for measured rates, sleeps idle models, makes room for woken ones.

The decisions are `core.demand`, `core.replica.sleep` and `core.replica.eviction`.
"""
