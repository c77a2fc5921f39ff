"""Everything that is simulated: GPU hosts, an engine, and fleets in simulated time.

The product imports it only where a simulated part is chosen in place of the real one.
"""
