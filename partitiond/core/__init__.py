"""Holds the pure core: frozen data and functions of data.

Nothing here does I/O, reads a clock, draws a random number or imports a framework. Time,
identifiers and randomness come in as arguments. Tests of the reconciler, the trial search, the
dispatch policy and the admission rule therefore need no process, clock or socket, and the
simulator runs the very functions that production runs.
"""
