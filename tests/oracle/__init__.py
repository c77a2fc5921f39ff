"""The planner against a brute force in rational numbers: `python -m tests.oracle --help`.

`truth` is written from docs/planning.md and docs/reference/definitions.md alone. It takes
records of input (devices, candidates, demands) and the published figures of hardware, and calls
nothing of `core` or `planner` that decides. Figures are floats, taken as the fractions they are.
"""
