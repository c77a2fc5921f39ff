"""Measures the control plane: its cost, changes under load, drift, forecasts and eviction."""
