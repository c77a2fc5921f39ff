"""Programs that run in the engine's environment, not in the daemon's: by path, with its python.

They import nothing of ours, and the engine's libraries only inside their functions.
"""
