"""Handles vLLM: its command line, versions, routes, metrics and failures.

The process room asks `commands` what to run; `diagnosis` reads an engine's last output.
"""
