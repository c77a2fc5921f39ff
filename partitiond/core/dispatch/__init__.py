"""Decides for each request of a model: start now and on which replica, wait, or be refused.

`dispatcher` is the sans-I/O whole that the proxy and both simulations drive; `admission`,
`fair_queue`, `balance`, `affinity` and `quarantine` are its parts, and `routing` the table that it
works on. Most of it is compiled with the proxy (`partitiond.native`).
"""
