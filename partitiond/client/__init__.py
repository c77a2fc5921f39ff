"""Provides the Python client of the control API. The command line is built on it."""

from partitiond.client.client import ControlClient

__all__ = ["ControlClient"]
