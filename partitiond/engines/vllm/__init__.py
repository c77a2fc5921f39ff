"""Handles vLLM: its command line, versions, routes, metrics and failures.

`launch` makes the arguments of an engine; `diagnosis` reads its last output.
"""
