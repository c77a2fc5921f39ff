"""Computes SHA-256 checksums of files in the background, and keeps them while the files stay.

A checksum counts for a file of the same size, time of change and inode. One thread computes, one
file after another; it is a daemon thread, so a disk that hangs keeps no process from ending.
"""

import asyncio
import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from partitiond.models.reading import look_at

READ_BYTES: Final = 1024 * 1024


@dataclasses.dataclass(slots=True)
class _Computing:
    """A checksum that is wanted.

    Attributes:
        done_bytes: so much of the file was read.
    """

    future: "Future[str]" = dataclasses.field(default_factory=Future)
    done_bytes: int = 0


class Checksums:
    """Knows the checksums of files.

    Args:
        kept_at: file in which they are kept; it is written once there is one to keep.
    """

    def __init__(self, kept_at: Path) -> None:
        self._kept_at = kept_at
        self._lock = threading.Lock()
        self._known = _read(kept_at)
        self._wanted: dict[Path, _Computing] = {}
        self._works = False

    def sum_of(self, path: Path) -> str:
        """Return the checksum of a file as it is now; empty if it was not computed."""
        try:
            identity = _identity(path)
        except OSError:
            return ""
        kept = self._known.get(str(path))
        return str(kept[-1]) if kept is not None and kept[:-1] == identity else ""

    def keep(self, sums: Iterable[tuple[Path, str]]) -> None:
        """Keep checksums that somebody else has computed, of files as they are now."""
        with self._lock:
            known = dict(self._known)
            for path, checksum in sums:
                known[str(path)] = [*_identity(path), checksum]
            self._save(known)
            self._known = known  # only now: what is told is on the disk, too

    async def share(self, paths: Sequence[Path], seconds: float) -> float:
        """Have checksums computed, and wait a moment; return the share of the bytes that is done.

        Raises:
            OSError: a file cannot be read.
        """
        if not paths:
            return 1.0
        folder = paths[0].parent
        computing = await look_at(
            folder, lambda: {path: self._begin(path) for path in paths if not self.sum_of(path)}
        )
        futures = [asyncio.wrap_future(one.future) for one in computing.values()]
        if futures:
            await asyncio.wait(futures, timeout=seconds)
        for future in futures:
            if not future.done():
                future.cancel()
            elif error := future.exception():
                raise error
        return await look_at(folder, lambda: self._done(paths, computing))

    def _done(self, paths: Sequence[Path], computing: Mapping[Path, _Computing]) -> float:
        sizes = {path: path.stat().st_size for path in paths}
        left = sum(
            max(1, sizes[path] - one.done_bytes)
            for path, one in computing.items()
            if not self.sum_of(path)
        )
        return 1 - left / max(1, left, sum(sizes.values()))

    def _begin(self, path: Path) -> _Computing:
        with self._lock:
            found = self._wanted.get(path)
            if found is None:
                found = self._wanted[path] = _Computing()
                # Nobody cancels the computation: whoever waits may go away and ask again.
                found.future.set_running_or_notify_cancel()
            if not self._works:
                self._works = True
                threading.Thread(target=self._work, name="checksums", daemon=True).start()
        return found

    def _work(self) -> None:
        while True:
            with self._lock:
                path = next(iter(self._wanted), None)
                if path is None:
                    self._works = False
                    return
                computing = self._wanted[path]
            try:
                before = _identity(path)
                checksum = _sha256(path, computing)
                if _identity(path) == before:  # else it is asked for again
                    self.keep([(path, checksum)])
                ended: str | Exception = checksum
            except Exception as error:  # noqa: BLE001 - told to whoever waits
                ended = error
            with self._lock:
                del self._wanted[path]
            if isinstance(ended, str):
                computing.future.set_result(ended)
            else:
                computing.future.set_exception(ended)

    def _save(self, known: dict[str, list[int | str]]) -> None:
        """Write all; without room on the disk they are computed again after a restart."""
        try:
            self._kept_at.parent.mkdir(parents=True, exist_ok=True)
            partial = self._kept_at.with_suffix(".partial")
            partial.write_text(json.dumps(known), encoding="utf-8")
            partial.replace(self._kept_at)
        except OSError:
            return


def _read(path: Path) -> dict[str, list[int | str]]:
    """Return what is kept of files that are still there."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {name: list(row) for name, row in kept.items() if Path(name).exists()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # they are computed again


def _identity(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _sha256(path: Path, computing: _Computing) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while data := file.read(READ_BYTES):
            digest.update(data)
            computing.done_bytes += len(data)
    return digest.hexdigest()
