"""Measures frontiers, proves plans, and runs fleets of small language models."""

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """The version, read only on demand, because each process of a fleet imports this file first.

    Raises:
        AttributeError: the module has no attribute of this name.
    """
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("partitiond")
    except PackageNotFoundError:  # running from a tree that was never installed
        found = "0.0.0+uninstalled"
    globals()[name] = found
    return found
