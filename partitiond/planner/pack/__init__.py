"""Packings: partial plans in integers, and the ways to add to them greedily.

`packing` is the record with its limits and rules, `adding` places one replica, `complete` all that
is missing, `assign` names replicas, `members` the methods. Search, columns and explanation use it.
"""
