"""Measures how right profiles are: estimates, transfers, intervals, and verdicts on capacity.

Transfers are compared with the measured profiles that are shipped; the other two are
simulated. `bench.search` has the search on simulated curves.
"""
