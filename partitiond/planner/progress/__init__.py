"""Tracks a running solve: the best value and bound so far, and its clock.

`watch` is asked by every member whether to go on, and is told what it found.
"""
