"""Measures the fleet simulator: its speed, and its agreement with engines."""
