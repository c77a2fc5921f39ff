"""Provides the command line: thin commands over the control API's client, and tables for people.

A command's module is imported once the command is chosen, so that `partitiond --help` stays quick.
"""
