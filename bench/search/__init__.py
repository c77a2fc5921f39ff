"""Tests the trial search on simulated curves, beside a dense reference."""
