"""Simulates fleets: thousands of engines, millions of requests, with the real decision code.

In addition to `partitiond.simulated.replay`, this package simulates what happens around requests:
hosts whose reconcilers start, drain and stop engines, models that are scaled to zero and woken,
demand that is measured and answered with a new plan, and the cost in GPU hours and energy.
"""
