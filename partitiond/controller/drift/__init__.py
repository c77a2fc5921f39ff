"""Follows drift: keeps the ledger of predicted and measured, corrects, and measures again.

The decisions are `core.drift`.
"""
