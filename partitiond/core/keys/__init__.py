"""API keys: what a key may do, its rates and budgets, and what it pays for a request.

`record` is the key, `rates` and `charging` hold the rules that the proxy applies, `usage` sums them
for charge-back. The proxy, the controller and the API use this room.
"""
