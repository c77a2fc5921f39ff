"""Describes what a user registers: a model, its architecture, workload, demand and rules.

`spec` is the entrance; `architecture`, `precision` and `families` turn a `config.json` into the
numbers that decide memory and speed. All packages read these records. This room imports `hardware`,
`numbers` and `dispatch.routing` (the limits of requests), and nothing of plans or replicas.
"""
