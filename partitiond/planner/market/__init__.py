"""Bounds and plans by column generation: models buy replicas, devices sell them.

`goods` says what devices can hold, `demand` what models buy and at which prices, `value` what some
prices prove, `program` is a linear program over the sets known so far, `rounds` finds prices by it
and runs these in turn (`factor`: for a common factor), `choose` makes a plan of the sets, and
`beside` does all of it next to the compiled search.
"""
