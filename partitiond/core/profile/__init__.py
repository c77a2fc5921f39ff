"""Profiles: measured, transferred or estimated operating points of one model on one partition.

`record` is the profile, `points` one operating point; `knee` finds the knee and the frontier,
`operating_points` names points, `staleness` says when a profile no longer holds. The profiler
writes these records, the planner and the controller read them.
"""
