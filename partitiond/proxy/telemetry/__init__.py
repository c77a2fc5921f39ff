"""Reports what the endpoint does: metrics, traffic counts, logs and traces.

`record` is written once for each request when it ends; everything here is made of it.
"""
