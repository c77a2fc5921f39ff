"""API keys and the books of their usage.

The proxy is told of each change at once. The rules are `core.keys`.
"""
