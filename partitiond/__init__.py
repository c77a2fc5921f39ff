"""partitiond: measured frontiers, proven plans, running fleets of small language models."""

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """The version, read only where it is asked for: each process of a fleet begins with this file.

    Raises:
        AttributeError: as a module does.
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
