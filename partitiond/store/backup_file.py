"""Packs the file of a backup, and unpacks files that may be damaged or forged."""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

from partitiond.core.errors import InputError, NotFoundError

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
STORE: Final = "store.sqlite3"
CONFIG: Final = "config.toml"
EFFECTIVE: Final = "settings.json"
MAX_MANIFEST_BYTES: Final = 16 * 1024**2
"""A manifest has about 100 bytes for each profile."""
CHUNK_BYTES: Final = 1024**2
_MEMBER: Final = re.compile(r"store\.sqlite3|config\.toml|settings\.json|profiles/[\w.@+=-]{1,200}")
_DAMAGED: Final = (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile, UnicodeDecodeError)


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """The description of a backup in its file.

    Attributes:
        format: version of the file's format; newer ones are refused.
        partitiond: version of partitiond that wrote the file.
        schema: schema of the store.
        created_at: time of the backup, UTC, ISO 8601.
        settings_file: path of the settings file; empty if there was none.
        profiles: the number of profiles in the backup.
        files: member -> (bytes, SHA-256 in hex).
    """

    format: int
    partitiond: str
    schema: str
    created_at: str
    settings_file: str
    profiles: int
    files: Mapping[str, tuple[int, str]]


def pack(manifest: Manifest, folder: Path, draft: Path) -> None:
    """Write the manifest and the files it lists, durably."""
    draft.touch(mode=0o600)
    with draft.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as archive:
            text = json.dumps(dataclasses.asdict(manifest), indent=2).encode()
            archive.addfile(_member(MANIFEST, len(text)), io.BytesIO(text))
            for name, (size, _) in manifest.files.items():
                with (folder / name).open("rb") as content:
                    archive.addfile(_member(name, size), content)
        file.flush()
        os.fsync(file.fileno())


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


def unpack(file: Path, folder: Path) -> Manifest:
    """Unpack a backup into an empty folder and check every byte of it.

    Members are written under checked names; the archive's paths, owners and modes are never used.

    Raises:
        NotFoundError: there is no such file.
        InputError: the file is not a backup, is damaged, or has a newer format.
    """
    try:
        with tarfile.open(file, mode="r:gz") as archive:
            members = iter(archive)
            manifest = _read_manifest(archive, next(members, None), file)
            seen = {_unpack_member(archive, m, manifest, folder, file) for m in members}
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {file}.", hint="Check the path.") from error
    except _DAMAGED as error:
        raise _damaged(file, str(error) or type(error).__name__) from error
    except OSError as error:
        raise InputError(
            f"{file} cannot be unpacked: {error.strerror or error}.",
            hint="See that it is readable, and that the state folder's disk has space.",
        ) from error
    missing = sorted(set(manifest.files) - seen)
    if missing:
        raise _damaged(file, f"{missing[0]} is missing")
    return manifest


def _read_manifest(
    archive: tarfile.TarFile, member: tarfile.TarInfo | None, file: Path
) -> Manifest:
    if member is None or member.name != MANIFEST or not member.isreg():
        raise InputError(
            f"{file} is no backup of partitiond.",
            hint="Give a file that `partitiond setup backup` wrote.",
        )
    content = archive.extractfile(member)
    if content is None or member.size > MAX_MANIFEST_BYTES:
        raise _damaged(file, "its manifest cannot be read")
    try:
        manifest = _manifest(json.loads(content.read()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(file, f"its manifest cannot be read ({error})") from error
    if manifest.format > FORMAT:
        raise InputError(
            f"{file} has format {manifest.format}; this partitiond reads up to {FORMAT}.",
            hint=f"Restore it with partitiond {manifest.partitiond} or newer.",
            facts={"format": manifest.format, "newest_known": FORMAT},
        )
    if STORE not in manifest.files:
        raise _damaged(file, "it holds no store")
    return manifest


def _manifest(data: Any) -> Manifest:
    return Manifest(
        format=int(data["format"]),
        partitiond=str(data["partitiond"]),
        schema=str(data["schema"]),
        created_at=str(data["created_at"]),
        settings_file=str(data["settings_file"]),
        profiles=int(data["profiles"]),
        files={str(k): (int(size), str(digest)) for k, (size, digest) in data["files"].items()},
    )


def _unpack_member(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    manifest: Manifest,
    folder: Path,
    file: Path,
) -> str:
    known = manifest.files.get(member.name)
    if known is None or not member.isreg() or not _MEMBER.fullmatch(member.name):
        raise _damaged(file, f"{member.name[:200]!r} does not belong into it")
    content = archive.extractfile(member)
    if content is None or member.size != known[0]:
        raise _damaged(file, f"{member.name} has {member.size} bytes instead of {known[0]}")
    target = folder / member.name
    target.parent.mkdir(mode=0o700, exist_ok=True)
    if _write(content, target) != known[1]:
        raise _damaged(file, f"{member.name} is not what was written (SHA-256)")
    return member.name


def _write(content: IO[bytes], target: Path) -> str:
    """Copy to a file, durably; return the SHA-256 of the copied bytes."""
    digest = hashlib.sha256()
    target.touch(mode=0o600, exist_ok=False)
    with target.open("wb") as file:
        while chunk := content.read(CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _damaged(file: Path, why: str) -> InputError:
    return InputError(
        f"{file} is damaged: {why}.",
        hint="Nothing was changed. Take another copy of it, or an earlier backup.",
        facts={"file": str(file)},
    )
