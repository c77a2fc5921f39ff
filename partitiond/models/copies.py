"""Reads and writes model folders of this host a piece at a time: `ports.ModelFolders`.

A copy of another host's model lies in a folder that its files' names, sizes and checksums name, so
a copy never changes, and two models with the same files are one copy. While it is made it lies
beside, under a hidden name; files grow there piece by piece, and stay when the making is cut off.
Once each file has its checksum, the folder is sealed and renamed like all that is prepared here
(`prepared`).
"""

import asyncio
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from partitiond.core.errors import ModelSourceError
from partitiond.models.checksums import Checksums
from partitiond.models.prepared import disk_error, is_complete, publish
from partitiond.models.reading import look_at
from partitiond.ports.model import ModelFile, ModelListing, ReceivedModel

COPIES: Final = "copies"
"""Folder of copies, below the folder of models."""
CHECKSUMS: Final = ".checksums.json"
ANSWER_SECONDS: Final = 1.0
"""Time within which a call answers although checksums are still computed. Chosen: far below the
deadline of a message, and few enough questions."""
MOST_FILES: Final = 10_000
MOST_PIECE_BYTES: Final = 16 * 1024 * 1024
SPARE_BYTES: Final = 64 * 1024 * 1024
"""Room that a copy leaves on the disk. Chosen: the daemon's store and logs may be on the same."""


class CopiedFolders:
    """Implements `ports.ModelFolders` below the folder of models.

    Args:
        models_dir: the daemon's folder of models.
        anywhere: read folders outside of it, too; for the host that resolves models, whose users
            name folders.
    """

    def __init__(
        self,
        models_dir: Path,
        *,
        anywhere: bool = False,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._models_dir = models_dir
        self._anywhere = anywhere
        self._answer_seconds = answer_seconds
        self._checksums = Checksums(models_dir / CHECKSUMS)
        self._growing: dict[Path, _Growing] = {}
        self._busy: dict[Path, asyncio.Lock] = {}

    # -- reading -----------------------------------------------------------------------------

    async def listing(self, folder: str) -> ModelListing:
        """Return the files below a folder; all checksums once they are computed."""
        paths = await look_at(Path(folder), lambda: self._files_below(Path(folder)))
        try:
            await self._checksums.share(tuple(paths.values()), self._answer_seconds)
            files = await look_at(Path(folder), lambda: self._listed(paths))
        except OSError as error:
            raise _unreadable(folder, error) from error
        return ModelListing(folder, tuple(files))

    def _listed(self, paths: Mapping[str, Path]) -> list[ModelFile]:
        return [
            ModelFile(name, path.stat().st_size, self._checksums.sum_of(path))
            for name, path in paths.items()
        ]

    def _files_below(self, folder: Path) -> dict[str, Path]:
        self._require_given(folder)
        try:
            found = dict(_below(folder))
        except OSError as error:
            raise _unreadable(str(folder), error) from error
        if not found or len(found) > MOST_FILES:
            raise ModelSourceError(
                f"{folder} holds {len(found) or 'no'} files.",
                hint=f"A model's folder holds 1 to {MOST_FILES} files.",
                facts={"folder": str(folder), "files": len(found)},
            )
        for path in found.values():
            self._require_given(path)
        return found

    def _require_given(self, path: Path) -> None:
        """Refuse what lies outside of the models, wherever links on the way lead."""
        if not self._anywhere and not path.resolve().is_relative_to(self._models_dir.resolve()):
            raise ModelSourceError(
                f"{path} is no file of a model of this host.",
                hint="Only files below its folder of models are given to other hosts.",
                facts={"path": str(path), "models_dir": str(self._models_dir)},
            )

    async def read(self, folder: str, name: str, offset: int, size: int) -> bytes:
        """Return a piece of a file."""
        return await look_at(
            Path(folder, name), lambda: self._read(Path(folder), name, offset, size)
        )

    def _read(self, folder: Path, name: str, offset: int, size: int) -> bytes:
        require_name(name)
        self._require_given(folder / name)
        # Opened at the place that was checked: a link that is set now leads nowhere.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            file = os.open((folder / name).resolve(), flags)
            try:
                return os.pread(file, min(size, MOST_PIECE_BYTES), offset)
            finally:
                os.close(file)
        except (OSError, OverflowError) as error:
            raise _unreadable(str(folder / name), error) from error

    # -- writing -----------------------------------------------------------------------------

    async def receive(self, listing: ModelListing) -> ReceivedModel:
        """Return how much of a model is here, and where, once all of it is."""
        for file in listing.files:
            require_name(file.name)
        there = Path(listing.folder)
        if await look_at(there, lambda: _alike(there, listing.files)):
            share = await self._share(there, listing.files)
            if share < 1:
                return ReceivedModel("", {}, share)
            if not await look_at(there, lambda: self._wrong(there, listing.files)):
                return ReceivedModel(str(there), {})
        target = self._target(listing)
        async with self._busy.setdefault(target, asyncio.Lock()):
            return await self._received(target, listing)

    async def _received(self, target: Path, listing: ModelListing) -> ReceivedModel:
        if await look_at(target, lambda: is_complete(target)):
            return ReceivedModel(str(target), {})
        partial = _partial(target)
        sizes = await look_at(target, lambda: _sizes(partial, listing.files))
        whole = [file for file in listing.files if sizes.get(file.name) == file.size_bytes]
        share = await self._share(partial, whole)
        damaged: tuple[str, ...] = ()
        try:
            if share >= 1:
                damaged = await look_at(target, lambda: self._without_wrong(partial, whole))
            for name in damaged:
                sizes.pop(name)
            if len(whole) == len(listing.files) and share >= 1 and not damaged:
                await asyncio.to_thread(self._seal, partial, target, listing.files)
                return ReceivedModel(str(target), {})
            await asyncio.to_thread(_require_room, target, listing.size_bytes, sum(sizes.values()))
        except OSError as error:
            raise disk_error(target, error) from error
        return ReceivedModel("", sizes, share, damaged)

    async def write(self, listing: ModelListing, name: str, offset: int, data: bytes) -> int:
        """Append a piece to a file of a copy."""
        require_name(name)
        size = next((file.size_bytes for file in listing.files if file.name == name), -1)
        if offset < 0 or offset + len(data) > size:
            raise ModelSourceError(
                f"{name} has no {len(data)} bytes at {offset}.",
                hint="The model's files changed while they were copied; they are copied again.",
                facts={"name": name, "size_bytes": size},
            )
        target = self._target(listing)
        path = _partial(target) / name
        async with self._busy.setdefault(target, asyncio.Lock()):
            # Shielded: a piece that is being written is written, and nobody writes beside it.
            return await asyncio.shield(asyncio.to_thread(self._append, path, offset, data, size))

    def _append(self, path: Path, offset: int, data: bytes, whole_bytes: int) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, flags, 0o644)
            try:
                there = os.fstat(file).st_size
                if there != offset:
                    return there
                _write_all(file, data, offset)
            finally:
                os.close(file)
        except OSError as error:
            self._growing.pop(path, None)
            raise disk_error(path, error) from error
        growing = self._growing.get(path)
        if offset == 0 or growing is None:
            growing = self._growing[path] = _Growing()
        growing.append(offset, data)
        if offset + len(data) == whole_bytes:
            del self._growing[path]
            if growing.size_bytes == whole_bytes:
                self._checksums.keep([(path, growing.digest.hexdigest())])
        return offset + len(data)

    def _seal(self, partial: Path, target: Path, files: Sequence[ModelFile]) -> None:
        publish(partial, target, None)
        self._checksums.keep((target / file.name, file.sha256) for file in files)

    def _target(self, listing: ModelListing) -> Path:
        return self._models_dir / COPIES / copy_name(listing)

    async def _share(self, folder: Path, files: Sequence[ModelFile]) -> float:
        paths = tuple(folder / file.name for file in files)
        try:
            return await self._checksums.share(paths, self._answer_seconds)
        except OSError as error:
            raise _unreadable(str(folder), error) from error

    def _without_wrong(self, folder: Path, files: Sequence[ModelFile]) -> tuple[str, ...]:
        """Remove the files with other checksums; return their names."""
        damaged = self._wrong(folder, files)
        for name in damaged:
            (folder / name).unlink()
        return damaged

    def _wrong(self, folder: Path, files: Sequence[ModelFile]) -> tuple[str, ...]:
        return tuple(f.name for f in files if self._checksums.sum_of(folder / f.name) != f.sha256)


class _Growing:
    """The checksum of a file that arrives; of no use if the file was begun by another process."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.size_bytes = 0

    def append(self, offset: int, data: bytes) -> None:
        if offset == self.size_bytes:
            self.digest.update(data)
            self.size_bytes += len(data)


def copy_name(listing: ModelListing) -> str:
    """Return the name of the folder of a copy: another file gives another name."""
    rows = sorted((file.name, file.size_bytes, file.sha256) for file in listing.files)
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:32]
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", Path(listing.folder).name).strip("-.")[-60:]
    return f"{slug or 'model'}-{digest}"


def require_name(name: str) -> None:
    """Raise ModelSourceError unless a name stays in its folder, and is not hidden there."""
    parts = PurePosixPath(name).parts
    if (
        not parts
        or PurePosixPath(name).as_posix() != name
        or any(part.startswith((".", "/")) or "\0" in part for part in parts)
    ):
        raise ModelSourceError(
            f"{name!r} is no name of a model's file.",
            hint="Names are relative, and nothing in them is hidden.",
            facts={"name": name},
        )


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def _below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield all regular files that are not hidden, by name; folders behind links are left out."""
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(folder).as_posix(), path


def _alike(folder: Path, files: Collection[ModelFile]) -> bool:
    """Whether a folder has all files, in their sizes."""
    return all(size == file.size_bytes for file, size in _zip_sizes(folder, files))


def _zip_sizes(
    folder: Path, files: Collection[ModelFile]
) -> Iterator[tuple[ModelFile, int | None]]:
    for file in files:
        try:
            yield file, (folder / file.name).stat().st_size
        except OSError:
            yield file, None


def _sizes(folder: Path, files: Collection[ModelFile]) -> dict[str, int]:
    """Return the sizes of files that are there; a file that is too large is begun again."""
    found: dict[str, int] = {}
    for file, size in _zip_sizes(folder, files):
        if size is not None and size > file.size_bytes:
            (folder / file.name).unlink(missing_ok=True)
        elif size is not None:
            found[file.name] = size
    return found


def _require_room(target: Path, whole_bytes: int, there_bytes: int) -> None:
    """Raise OSError (ENOSPC) if the rest of a copy does not fit on the disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if whole_bytes - there_bytes + SPARE_BYTES > free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _write_all(file: int, data: bytes, offset: int) -> None:
    """Append all or nothing, as far as the disk lets."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(file, rest) :]
    except OSError:
        os.ftruncate(file, offset)
        raise


def _unreadable(path: str, error: Exception) -> ModelSourceError:
    return ModelSourceError(
        f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.",
        hint="Look at that disk; the model is fetched again once its folder is gone.",
        facts={"path": path},
    )
