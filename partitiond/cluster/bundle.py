"""Packs what a host needs to join into one file, and unpacks it there.

A bundle has the host's name, the fleet's token, the authority's certificate, and the host's own
certificate and key. Whoever reads it can join as that host, and the token runs programs on every
host: the file is its owner's alone, travels by scp, and is removed once the host has joined.

A bundle is one JSON object with fixed fields. It names no file, so none of its contents decides
where anything is written.
"""

import dataclasses
import hashlib
import json
import os
import re
import stat
import tempfile
from pathlib import Path
from typing import Any, Final

from partitiond.cluster.certificates import (
    HINT,
    HostFiles,
    check_files,
    write_files,
)
from partitiond.cluster.private_files import make_private, refuse_open, write_private, writing
from partitiond.core.errors import InputError, SettingsError

SUFFIX: Final = ".bundle"
FORMAT: Final = 1
MOST_BYTES: Final = 64 * 1024
"""Size of the largest bundle that is read; one has about 3 KiB, and chains of certificates some
more."""
HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
"""Names of hosts: as the setting host.name, and as a label of Ray."""
TOKEN: Final = re.compile(r"[!-~]{16,512}")
"""A token has no space and no line end, with which a file of it would be read as another one."""
FIELDS: Final = frozenset({"format", "host", "token", "ca", "certificate", "key", "sha256"})


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """What a host needs to join."""

    host: str
    token: str = dataclasses.field(repr=False)
    files: HostFiles


def check_host_name(host: str) -> None:
    """Refuse what cannot be a host's name. Raises InputError."""
    if not HOST.fullmatch(host):
        raise InputError(
            f"{host!r} cannot be the name of a host.",
            hint="Use at most 63 letters, digits, dots, hyphens and underscores, as gpu-1.",
        )


def write_bundle(folder: Path, bundle: Bundle) -> Path:
    """Write a bundle into a folder, mode 0600, in place of a former one; return its path.

    Raises:
        InputError: the folder cannot be written.
    """
    check_host_name(bundle.host)
    path = folder / f"{bundle.host}{SUFFIX}"
    body = {
        "format": FORMAT,
        "host": bundle.host,
        "token": bundle.token,
        "ca": bundle.files.ca,
        "certificate": bundle.files.certificate,
        "key": bundle.files.key,
    }
    hint = "Name a folder that exists and is writable for this user: --out DIR."
    with writing("the bundle", path, hint, InputError):
        write_private(path, json.dumps({**body, "sha256": _sum(body)}, indent=1) + "\n")
    return path


def read_bundle(path: Path) -> Bundle:
    """Read a bundle and check its form.

    Raises:
        InputError: it cannot be read, others may read it, or it is not a whole bundle.
    """
    text = _read(path)
    try:
        found: dict[str, Any] = json.loads(text)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"it is no bundle of format {FORMAT}")
        if found.keys() != FIELDS:
            raise ValueError("it has other fields than a bundle")
        given = found.pop("sha256")
        if not all(isinstance(found[name], str) for name in found if name != "format"):
            raise ValueError("a field is not text")
        if given != _sum(found):
            raise ValueError("its checksum is another one's")
        if not HOST.fullmatch(found["host"]) or not TOKEN.fullmatch(found["token"]):
            raise ValueError("its host name or token cannot be one")
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged or no bundle: {error}.",
            hint="Have it made again on the head: `partitiond host certificate --for NAME "
            "--address ADDRESS --out DIR`.",
            facts={"path": str(path)},
        ) from error
    files = HostFiles(ca=found["ca"], certificate=found["certificate"], key=found["key"])
    return Bundle(host=found["host"], token=found["token"], files=files)


def _read(path: Path) -> str:
    """Return the text of a file that is its owner's alone. Raises InputError."""
    try:
        # Without waiting: somebody may have put a pipe there.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise InputError(f"{path} is no file.", hint="Name the bundle.")
            remedy = "have a new token and new bundles made"
            refuse_open(path, found.st_mode, "which has the fleet's token", remedy, InputError)
            body = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}.",
            hint="Copy it from the head: `scp HEAD:NAME.bundle .`",
            facts={"path": str(path)},
        ) from error
    if len(body) > MOST_BYTES:
        raise InputError(f"{path} is too large for a bundle.", hint="Name the bundle.")
    return body.decode("utf-8", "replace")


def unpack_bundle(path: Path, *, token_path: Path, tls_dir: Path) -> str:
    """Put a bundle's contents where Ray reads them, and return the host's name.

    Nothing is written unless all of the bundle is good. Former files are replaced, which Ray
    notices at its next start. Needs the standard library alone.

    Args:
        token_path: file of the fleet's token.
        tls_dir: folder of the three files.

    Raises:
        InputError: as `read_bundle`; or its certificate would not be accepted: expired, of another
            authority or host, or with another key.
        SettingsError: the files cannot be written.
    """
    bundle = read_bundle(path)
    with tempfile.TemporaryDirectory(prefix="partitiond-bundle-") as folder:
        write_files(Path(folder), bundle.files)
        try:
            check_files(Path(folder), [bundle.host])
        except SettingsError as error:
            raise InputError(
                f"the certificate in {path} cannot be used: {error.message}",
                hint=HINT,
                facts={"path": str(path)},
            ) from error
    write_files(tls_dir, bundle.files)
    hint = "See that this user may write there, or correct cluster.token_path."
    with writing("the fleet's token", token_path, hint):
        make_private(token_path.parent)
        write_private(token_path, bundle.token + "\n")
    return bundle.host


def _sum(body: dict[str, Any]) -> str:
    """Return the checksum of a bundle's fields, which finds damage and no forger."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
