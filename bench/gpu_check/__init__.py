"""What can be measured on a GPU within a budget of seconds, most valuable first.

`python -m bench.gpu_check --budget 540 --out DIR` (or `make gpu-check BUDGET=540 OUT=DIR`) runs
trials until the budget is used up, keeps each in DIR/checkpoint.json as soon as it is done, and
goes on from there the next time. DIR/report.md and DIR/report.html say what was found, beside the
figures of the paper that partitiond starts from, and what was not reached. Which trial comes next
is a pure function (`schedule`); `lab` holds the effects.
"""
