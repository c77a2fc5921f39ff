"""Follows drift: keeps the ledger of predicted and measured, doubts profiles, and measures again.

The decisions are `core.drift`.
"""
