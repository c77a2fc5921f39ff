"""Measures what several hosts decide about requests, in simulated time."""
