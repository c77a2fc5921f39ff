"""Holds the files of the dashboard."""
