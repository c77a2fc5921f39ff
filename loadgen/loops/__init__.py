"""Runs the load: a closed loop holds requests in flight, an open loop sends them when due.

`window` decides when a measurement may end, `instrument` watches whether the client kept up.
"""
