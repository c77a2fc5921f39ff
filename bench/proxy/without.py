"""Our proxy with parts taken out, to learn what they cost. Run by `features.py`, never in use.

It runs the sources, not what is compiled of them: compiled methods cannot be replaced.

python -m bench.proxy.without log,metrics ARGUMENTS OF partitiond.proxy
"""

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

from partitiond import native

PARTS: Final[Mapping[str, tuple[tuple[str, str, str], ...]]] = {
    # (module, class, method) that then does nothing
    "nothing": (),
    "log": (("partitiond.proxy.record", "Record", "write"),),
    "metrics": (("partitiond.proxy.record", "Record", "count"),),
    "traffic": (("partitiond.proxy.record", "Record", "_count_work"),),
    "estimates": (("partitiond.proxy.record", "Record", "teach"),),
}


def nothing(*_: Any, **__: Any) -> None:
    """In the place of a part."""


def class_of(module: str, name: str) -> type:
    """The class a part is a method of."""
    found: type = getattr(importlib.import_module(module), name)
    return found


def take_out(part: str) -> None:
    """Make a part do nothing. Raises AttributeError when it is no longer there."""
    for module, name, method in PARTS[part]:
        owner = class_of(module, name)
        if not hasattr(owner, method):
            raise AttributeError(f"{module}.{name} has no {method}: mend PARTS in {__file__}")
        setattr(owner, method, nothing)


def main() -> int:
    """Take out the parts, then be the proxy."""
    os.environ[native.SWITCH] = "0"
    parts = sys.argv.pop(1)
    for part in parts.split(","):
        take_out(part)
    from partitiond.proxy.__main__ import main as proxy

    return proxy()


if __name__ == "__main__":
    sys.exit(main())
