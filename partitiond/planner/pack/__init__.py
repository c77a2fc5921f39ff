"""Packings: partial plans in integers, and the ways to add to them greedily.

`packing` is the record with its limits and rules, `adding` places one replica, `complete` all that
is missing, `assign` gives replicas their names, and `members` name the method that found each. The
search, the market and the explanation use it.
"""
