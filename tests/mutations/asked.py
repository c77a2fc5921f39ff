"""Which tests have to refuse a wrong version of a file: those nearest to it first."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

NEIGHBOURS: Final[dict[str, tuple[str, ...]]] = {
    "core/dispatch": ("property", "simulated/replay", "proxy/dispatch"),
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
    import it, and the neighbours. No file stands twice.
    """
    room = Path(file).relative_to("partitiond").parent
    stem = Path(file).stem
    tests = root / "tests"
    wanted = [
        [tests / room / f"test_{stem}.py", tests / room.parent / f"test_{room.name}.py"],
        sorted((tests / room).glob(f"test_{stem}_*.py")),
        sorted((tests / room).glob("test_*.py")),
        sorted(_importing(file, tests)),
        *(
            sorted((tests / near).rglob("test_*.py"), key=lambda path: (len(path.parts), path))
            for near in _near(room.as_posix())
        ),
    ]
    seen: set[Path] = set()
    asked = []
    for group in wanted:
        fresh = [path for path in group if path.exists() and path not in seen]
        seen.update(fresh)
        if fresh:
            asked.append([path.relative_to(root).as_posix() for path in fresh])
    return asked


def _near(room: str) -> Iterator[str]:
    for prefix, near in NEIGHBOURS.items():
        if room == prefix or room.startswith(f"{prefix}/"):
            yield from near


def _importing(file: str, tests: Path) -> Iterator[Path]:
    """Test files that name the module, as one dotted name or as a name from its package."""
    dotted = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    package, _, name = dotted.rpartition(".")
    names = re.compile(
        rf"\b{re.escape(dotted)}\b|from {re.escape(package)} import [^()]*?\b{name}\b"
    )
    for path in set(tests.rglob("test_*.py")) - set((tests / "mutations").iterdir()):
        if names.search(path.read_text(encoding="utf-8")):
            yield path
