"""Implements the control API: FastAPI over `controller.service.Service`.

It is thin on purpose: a route reads the request, calls one use case and writes the answer.
`schemas` converts request bodies to the core's specifications, `errors` converts exceptions to
problem details, and `auth` and `limits` check requests before every route.
"""
