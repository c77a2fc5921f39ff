"""The pure core: frozen data and functions of data.

Nothing here does I/O, reads a clock, draws a random number or imports a framework. Time,
identifiers and randomness come in as arguments. That is what lets the reconciler, the trial
search, the dispatch policy and the admission rule be tested without a process, a clock or a
socket, and lets the simulator run the very functions that production runs.
"""
