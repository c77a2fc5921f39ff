"""Measures the control plane: its cost, changes under load, and drift."""
