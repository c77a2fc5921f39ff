"""Turns a request into the integers that the solvers work on.

`types` has the request and the instance, `instance` builds it (bounds round outward, plans inward),
`sites` flattens it into arrays. Every other room of the planner reads it; it imports none of them.
"""
