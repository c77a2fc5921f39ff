"""Fleets in simulated time: thousands of engines, millions of requests, the production's decisions.

Beside what `partitiond.simulation` holds this adds what happens around the requests: hosts whose
reconcilers start, drain and stop engines, models that fall asleep and are woken, demand that is
measured and answered with another plan, and what all of it costs in GPU hours and energy.
"""
