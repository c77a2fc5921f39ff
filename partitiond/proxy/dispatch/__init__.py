"""Feeds `core.dispatch` with live replicas and requests, in one process or over several.

`state` is the proxy's whole state, `live` that of one routing table; `ledger` and `shared` hold the
numbers that workers share in memory.
"""
