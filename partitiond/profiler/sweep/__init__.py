"""Runs a sweep: the trials of one model on one partition, up to the confirmed points.

`sweep` asks `profiler.search` which trial comes next, `trial` runs it, `confirm` starts the engine
again as a plan will run it.
"""
