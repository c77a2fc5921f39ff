"""Runs our proxy with parts removed, to learn their cost. Only for `features.py`, never for use.

It runs the sources, not the compiled modules: compiled methods cannot be replaced.

python -m bench.proxy.without log,metrics ARGUMENTS OF partitiond.proxy
"""

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

from partitiond import native

PARTS: Final[Mapping[str, tuple[tuple[str, str, str], ...]]] = {
    # (module, class, method) of a method that then does nothing
    "nothing": (),
    "log": (("partitiond.proxy.telemetry.record", "Record", "write"),),
    "metrics": (("partitiond.proxy.telemetry.record", "Record", "count"),),
    "traffic": (("partitiond.proxy.telemetry.record", "Record", "_count_work"),),
    "estimates": (("partitiond.proxy.telemetry.record", "Record", "teach"),),
}


def nothing(*_: Any, **__: Any) -> None:
    """Replace a removed part."""


def class_of(module: str, name: str) -> type:
    """The class that a part is a method of."""
    found: type = getattr(importlib.import_module(module), name)
    return found


def take_out(part: str) -> None:
    """Make a part do nothing. Raises AttributeError if the part no longer exists."""
    for module, name, method in PARTS[part]:
        owner = class_of(module, name)
        if not hasattr(owner, method):
            raise AttributeError(f"{module}.{name} has no {method}: mend PARTS in {__file__}")
        setattr(owner, method, nothing)


def main() -> int:
    """Remove the parts, then run the proxy."""
    os.environ[native.SWITCH] = "0"
    parts = sys.argv.pop(1)
    for part in parts.split(","):
        take_out(part)
    from partitiond.proxy.__main__ import main as proxy

    return proxy()


if __name__ == "__main__":
    sys.exit(main())
