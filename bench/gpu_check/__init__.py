"""Measures on a GPU as much as a budget of seconds allows, the most valuable trials first.

`python -m bench.gpu_check --budget 900 --out DIR` (or `make gpu-check BUDGET=900 OUT=DIR`) runs
trials until the budget is used up, keeps each in DIR/checkpoint.json as soon as it is done, and
continues from there the next time. DIR/report.md shows the results, beside the figures of the paper
that partitiond starts from, and the trials that were not reached. A pure function chooses the next
trial (`schedule`); `lab` holds the effects.
"""
