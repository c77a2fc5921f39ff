"""Measures the cost of a store transaction on this disk, with and without waiting for the disk.

Events are added to a new store in `--folder`: events of partitiond's own actions commit without
waiting for the disk, events of a person's requests wait for it. The difference is the cost of
surviving a power loss, for each transaction.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.command import options
from partitiond.store import open_store


def main(words: Sequence[str] | None = None) -> int:
    """Measure both kinds and print them."""
    parser = options(__doc__)
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to measure")
    parser.add_argument("--times", type=int, default=300, help="transactions of each kind")
    given = parser.parse_args(words)
    milliseconds: dict[str, list[float]] = {"": [], "somebody": []}
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        store = open_store(Path(folder) / "bench.sqlite3")
        for _ in range(given.times):  # in turns: other work on the machine slows both alike
            for actor, seen in milliseconds.items():
                begin = time.perf_counter()
                store.add_event("t", "bench", "store", "one of many", actor=actor)
                seen.append((time.perf_counter() - begin) * 1e3)
        store.close()
    for actor, name in (("", "without waiting"), ("somebody", "on the disk")):
        cuts = statistics.quantiles(milliseconds[actor], n=20)
        print(f"{name:16} median {cuts[9]:.2f} ms, 95 % below {cuts[18]:.2f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
