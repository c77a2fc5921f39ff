"""Predicts memory, step times, latencies and throughput of an engine, measured or not.

`roofline`, `footprint` and `latency` compute; `estimate` makes an estimated profile of them,
`transfer` carries a measured profile to another partition, and `interference` says what sharing a
device costs. The planner, the profiler, the controller and both simulations use this room.
"""
