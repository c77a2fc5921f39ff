"""API keys: what a key may do, its rates and budgets, and what it pays for a request.

`record` is the key, `rates_and_budgets` and `tokens_charged` hold the rules that the proxy applies,
`usage` finds what is booked for each key. The proxy, the controller and the API use it.
"""
