"""partitiond: measured frontiers, proven plans, running fleets of small language models."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("partitiond")
except PackageNotFoundError:  # running from a tree that was never installed
    __version__ = "0.0.0+uninstalled"

__all__ = ["__version__"]
