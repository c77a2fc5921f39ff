"""Finds bounds and plans by column generation: models buy replicas, devices sell them.

`goods` lists what devices can hold, `demand` what models buy and at which prices, `value` derives a
bound from prices, `program` is a linear program over the sets known so far, `rounds` finds prices
with it and runs these parts in turn (`factor`: for a common factor), `choose` makes a plan of the
sets, and `beside` does all of this next to the compiled search.
"""
