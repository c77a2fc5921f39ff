"""Feeds `core.dispatch` with live replicas and requests, in one process or over several.

`live` is the state of one model, `replicas` that of one engine with the requests in flight on it;
`estimates` says what a request will take of it. `ledger` and `shared` hold the numbers that workers
share in memory.
"""
