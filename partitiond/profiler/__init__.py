"""Measures profiles of models on live engines."""
