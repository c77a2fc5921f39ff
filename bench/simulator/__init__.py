"""Measures the fleet simulator: its speed, its replays of plans, and its agreement with engines."""
