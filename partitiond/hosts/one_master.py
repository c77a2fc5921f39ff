"""Holds a host to one master: it has a control plane of its own, or obeys another host's."""

import contextlib
import dataclasses
import secrets
from pathlib import Path
from typing import Final

from partitiond import serde
from partitiond.core.errors import ConflictError, InputError, StoreError
from partitiond.platform.durable_file import write_durably
from partitiond.settings.schema import Settings
from partitiond.store import open_store

JOINED: Final = "joined.json"
"""Record in the state folder of a host that joined another one."""
OBEYED: Final = "obeyed-head.json"
"""Record in the state folder of the head whose orders were followed last."""


@dataclasses.dataclass(frozen=True, slots=True)
class JoinedHead:
    """The head that a host joined.

    Attributes:
        address: of the head, host:port.
        socket: at which this host's agent answers.
    """

    address: str
    socket: str = ""


def joined_head(settings: Settings) -> JoinedHead | None:
    """Return the head that this host joined; None if it is its own master.

    Raises:
        StoreError: there is a record that cannot be read.
    """
    path = settings.state_dir / JOINED
    try:
        return serde.read_stored(JoinedHead, path)
    except InputError as error:
        raise StoreError(
            f"the record {path} of the head that this host joined cannot be read: {error}.",
            hint="`partitiond down` removes it, and ends what runs here for that head.",
            facts={"path": str(path)},
        ) from error


def is_joined(settings: Settings) -> bool:
    """Return whether this host joined another one, even if the record cannot be read."""
    return (settings.state_dir / JOINED).exists()


def refuse_joined(settings: Settings) -> None:
    """Refuse a control plane of its own to a host that joined another one.

    Raises:
        ConflictError: it did, or is to by its settings.
        StoreError: whether it did cannot be read.
    """
    joined = joined_head(settings)
    if joined is not None:
        raise ConflictError(
            f"this host obeys the head {joined.address}, and has no control plane of its own.",
            hint="`partitiond host join` runs its agent again; `partitiond down` ends what "
            "runs here for that head, and then `partitiond serve` works.",
            facts={"head": joined.address},
        )
    if settings.cluster.joined:
        raise ConflictError(
            f"the settings have this host obey the head {settings.cluster.head}.",
            hint="Run `partitiond host join`; or set [cluster] head to nothing, and this host has "
            "a control plane of its own.",
            facts={"head": settings.cluster.head},
        )


def refuse_master(settings: Settings) -> None:
    """Refuse to join with a state folder whose own plan has replicas.

    Raises:
        ConflictError: a plan is applied there.
        StoreError: the store cannot be read.
    """
    if not settings.store_path.exists():
        return
    store = open_store(settings.store_path)
    try:
        plan = store.plan()
    finally:
        store.close()
    if plan is not None and plan.placements:
        models = sorted({placement.model for placement in plan.placements})
        raise ConflictError(
            f"this host has a control plane of its own, whose plan serves {len(models)} models "
            f"({', '.join(models[:3])}{', ...' if len(models) > 3 else ''}).",
            hint="`partitiond serve`, then `partitiond models remove NAME` for each of them and "
            "`partitiond down`; or join with another folder (--state-dir). `partitiond setup "
            "backup FILE` keeps what was registered and measured.",
            facts={"models": models},
        )


def note_joined(settings: Settings) -> None:
    """Keep that this host obeys the head that the settings name. Raises StoreError."""
    joined = JoinedHead(settings.cluster.head, str(settings.agent_socket))
    with contextlib.suppress(StoreError):  # the same needs no room on a disk that may be full
        if joined_head(settings) == joined:
            return
    _write(settings.state_dir / JOINED, serde.to_stored_json(joined))


def note_left(settings: Settings) -> None:
    """Forget whom this host obeyed."""
    with contextlib.suppress(StoreError):
        joined = joined_head(settings)
        if joined is not None and joined.socket:
            Path(joined.socket).unlink(missing_ok=True)
    for name in (JOINED, OBEYED):
        (settings.state_dir / name).unlink(missing_ok=True)


def ensure_host_id(path: Path) -> str:
    """Return this host's id; make it once. It stays when name or address change.

    Raises:
        StoreError: it cannot be read or written.
    """
    try:
        found = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        found = ""
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(
            f"the id of this host, {path}, cannot be read: {error}.",
            hint="Remove the file: another id is made, and the head takes the host for a new one.",
            facts={"path": str(path)},
        ) from error
    if not found:
        found = secrets.token_hex(8)
        _write(path, found + "\n")
    return found


def _write(path: Path, text: str) -> None:
    try:
        write_durably(path, text.encode())
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written: {error.strerror}.",
            hint="Make the state folder writable for this user, with some room on its disk.",
            facts={"path": str(path)},
        ) from error
