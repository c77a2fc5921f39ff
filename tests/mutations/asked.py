"""Which tests have to refuse a wrong version of a file: those nearest to it first."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

NEIGHBOURS: Final[dict[str, tuple[str, ...]]] = {
    "core/dispatch": ("property", "simulated/fleet", "proxy/dispatch"),
    "core/keys": ("property", "proxy/keys", "proxy/workers", "controller/keys"),
    "core/plan": ("property", "controller/runtime", "controller/plans"),
    "core/replica": ("property", "controller/runtime", "fleet"),
    "planner": ("planner", "property", "oracle"),
    "controller/runtime": ("controller", "property", "fleet"),
    "proxy/edge": ("proxy/edge", "proxy", "bodies", "contract"),
}
"""Rooms whose rules other rooms' tests hold, too."""


def groups(file: str, root: Path) -> list[list[str]]:
    """Test files in the order in which they are asked: the mirror of the file, its room, those who
    import it, the mirrors of what uses it, and the neighbours. No file stands twice.
    """
    module = Path(file).relative_to("partitiond")
    room = module.parent
    product, tests = root / "partitiond", root / "tests"
    users = [path.relative_to(product) for path in _importing(file, product)]
    wanted = [
        _mirror(module, tests),
        sorted((tests / room).glob("test_*.py")),
        [path for path in _importing(file, tests) if path.name.startswith("test_")],
        [test for user in users for test in _mirror(user, tests)],
        *(
            sorted((tests / near).rglob("test_*.py"), key=lambda path: (len(path.parts), path))
            for near in _near(room.as_posix())
        ),
    ]
    seen: set[Path] = set()
    asked = []
    for group in wanted:
        there = [path for path in dict.fromkeys(group) if path.exists()]
        fresh = [path for path in there if path not in seen and path.parent.name != "mutations"]
        seen.update(fresh)
        if fresh:
            asked.append([path.relative_to(root).as_posix() for path in fresh])
    return asked


def _near(room: str) -> Iterator[str]:
    for prefix, near in NEIGHBOURS.items():
        if room == prefix or room.startswith(f"{prefix}/"):
            yield from near


def _importing(file: str, folder: Path) -> list[Path]:
    """Files that name the module, as one dotted name or as a name from its package."""
    dotted = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    package, _, name = dotted.rpartition(".")
    names = re.compile(
        rf"\b{re.escape(dotted)}\b|from {re.escape(package)} import \(?[^()]*?\b{name}\b"
    )
    paths = sorted(folder.rglob("*.py"))
    return [path for path in paths if names.search(path.read_text(encoding="utf-8"))]


def _mirror(path: Path, tests: Path) -> list[Path]:
    """The files that test a module, or its room, by their names."""
    room = path.parent
    return [
        tests / room / f"test_{path.stem}.py",
        tests / room.parent / f"test_{room.name}.py",
        *sorted((tests / room).glob(f"test_{path.stem}_*.py")),
    ]
