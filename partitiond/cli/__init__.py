"""Provides the command line: thin commands over the control API's client, and tables for people.

Each command imports what it needs when it runs, so that `partitiond --help` stays quick.
"""
