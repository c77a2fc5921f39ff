"""Holds one module per revision."""
