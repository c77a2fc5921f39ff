"""Acts on demand: plans for measured rates, makes room for woken models.

The decisions are `core.demand` and `core.replica.step_down`; `runtime.sleeping` keeps who sleeps.
"""
