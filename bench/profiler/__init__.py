"""Measures how right profiles are: estimates, transfers, other lengths, intervals and sharing.

The benchmarks of sharing and `search_real` start real engines; the others read the measured
profiles that are shipped, or simulate. `bench.search` has the search on simulated curves.
"""
