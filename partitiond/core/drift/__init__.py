"""Compares measured figures of replicas with predicted ones, and decides what follows.

`window` gathers counts, `load` predicts the figures at the observed load, `detection` compares
them, `correction` corrects or measures again. The controller's room of the same name acts on it.
"""
