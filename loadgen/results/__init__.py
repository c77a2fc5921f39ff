"""Turns the records of a run into figures with intervals, and into tables, files and pages."""
