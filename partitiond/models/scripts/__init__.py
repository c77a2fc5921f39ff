"""Holds programs that run in the engine's environment: by path, with the engine's Python.

They import nothing of partitiond, and the engine's libraries only inside their functions.
"""
