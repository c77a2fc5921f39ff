"""The control API: FastAPI over `ports.ControlService`.

Thin on purpose: a route reads the request, calls one use case and writes the answer. `schemas`
turns friendly request bodies into the core's specifications, `errors` turns what is raised into
problem details, `auth` and `limits` stand in front of every route.
"""
