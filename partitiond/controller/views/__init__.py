"""Computes views of models, replicas and the whole host from snapshots, for people.

The API, the dashboard and the command line show it; nothing here changes anything.
"""
