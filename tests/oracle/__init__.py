"""Checks the planner by a brute force in rational numbers: `python -m tests.oracle --help`.

`truth` is written from docs/planning.md and docs/reference/definitions.md alone. It takes records
of input (devices, candidates, demands) and the published figures of hardware, and calls no code of
`core` or `planner` that decides. Figures are floats, read as exact fractions.
"""
