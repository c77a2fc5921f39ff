"""Keeps who this control plane is, as the head of other hosts, in its store.

The record is a mark of the store, so that a backup carries it: a head that is restored elsewhere
knows whose hosts it had, and takes over.
"""

import contextlib
import dataclasses
import uuid
from collections.abc import Callable, Mapping
from typing import Final

from partitiond.core.errors import FencedError, InputError, StoreError
from partitiond.hosts.calls.fencing import NO_HEAD, HeadSession
from partitiond.serde import from_stored_json, to_stored_json
from partitiond.store import Store

MARK: Final = "head"
"""Kind of the mark that holds the record; its subject is empty."""


@dataclasses.dataclass(frozen=True, slots=True)
class HeadRecord:
    """A control plane, as the head of other hosts.

    Attributes:
        id: its own; a take-over makes a new one.
        epoch: grows by each take-over, and only so.
        starts: of a daemon on this store, so far.
        seen_epoch: the highest epoch of another head that a host said it obeys; 0 if none did.
    """

    id: str
    epoch: int = 1
    starts: int = 0
    seen_epoch: int = 0


def started(record: HeadRecord) -> HeadRecord:
    """Return the record of the next start of a daemon."""
    return dataclasses.replace(record, starts=record.starts + 1)


def having_seen(record: HeadRecord, epoch: int) -> HeadRecord:
    """Return the record once a host said that it obeys a head of this epoch."""
    return dataclasses.replace(record, seen_epoch=max(record.seen_epoch, epoch))


def taken_over(record: HeadRecord, new_id: str) -> HeadRecord:
    """Return the record of a head that every host obeys that obeyed one of the epochs known here.

    A host may obey a head of which nothing is known here; it says so when it is asked, and a
    further take-over is above that one, too.
    """
    epoch = 1 + max(record.epoch, record.seen_epoch)
    return dataclasses.replace(record, id=new_id, epoch=epoch)


def overtaken(epoch: int, obeyed: Mapping[str, int]) -> str:
    """Return why a head may begin nothing any more, also on its own host; empty if it may.

    A head is overtaken once a host of its own obeys one that has overtaken it (see `fencing`); that
    one acts from then on. What a host says counts only if it obeyed this head before: one that
    was taken from another fleet proves nothing.

    Args:
        epoch: of this head.
        obeyed: epoch of the one that overtakes it, by name of each own host that obeys that one;
            those of an earlier epoch were gone above by a take-over.
    """
    above = {host: other for host, other in obeyed.items() if other >= epoch}
    if not above:
        return ""
    host = max(sorted(above), key=lambda name: above[name])
    other = f"another control plane has taken over, with epoch {above[host]}; this one has {epoch}"
    if above[host] == epoch:
        other = "a later start of this control plane, or a copy of it, gives the orders"
    return (
        f"{other}, and the host {host} obeys the other. What runs on this host goes on, and "
        "nothing is begun here. Switch this control plane off. If it is to be the head, as after "
        "the restore of a backup: stop it, and "
        f"`partitiond hosts --take-over`. If {host} obeys the other one by mistake: `partitiond "
        f"hosts --forget {host}`."
    )


def load_head(store: Store) -> HeadRecord | None:
    """Return the record; None if this control plane was never the head of others.

    Raises:
        StoreError: it cannot be read.
    """
    text = store.marks(MARK).get("")
    if text is None:
        return None
    try:
        return from_stored_json(HeadRecord, text)
    except InputError as error:
        raise StoreError(
            f"the head's record in the store cannot be read: {error.message}",
            hint="Restore a backup, or run `partitiond hosts --take-over`.",
        ) from error


def save_head(store: Store, record: HeadRecord, at: str) -> None:
    """Keep the record; it is on the disk when this returns."""
    store.set_mark(MARK, "", to_stored_json(record), at)


def start_head(
    claim: Callable[[HeadSession], None], store: Store, at: str, *, is_head: bool
) -> HeadSession:
    """Count a start of the daemon, use the run folder for it, and return how hosts know it.

    To be called before anything is adopted or ordered. The epoch of a later control plane whose
    processes run in the folder is kept, so that a take-over is above it.

    Args:
        claim: of the run folder (`run_folder.OwnedRunFolder`).
        is_head: whether it is the head of other hosts from now on.

    Raises:
        FencedError: a later control plane has processes in the folder; no start was counted.
        StoreError: who this control plane is cannot be read or kept.
    """
    record = load_head(store)
    known = record or HeadRecord(uuid.uuid4().hex)
    session = NO_HEAD
    if record is not None or is_head:
        new = started(known)
        save_head(store, new, at)
        session = HeadSession(new.id, new.epoch, new.starts, uuid.uuid4().hex)
    try:
        claim(session)
    except FencedError as error:
        seen = error.facts["epoch"]
        assert isinstance(seen, int)
        save_head(store, having_seen(known, seen), at)
        raise
    return session


def note_epoch(store: Store, epoch: int, at: str) -> None:
    """Keep that a host obeys a head of this epoch (`RemoteHost.seen_epoch`)."""
    record = load_head(store)
    if record is not None and epoch > max(record.epoch, record.seen_epoch):
        save_head(store, having_seen(record, epoch), at)


def take_over(store: Store, at: str) -> HeadRecord:
    """Make this control plane the head of all hosts that it has; no daemon may run on the store."""
    new_id, known = uuid.uuid4().hex, None
    with contextlib.suppress(StoreError):  # hosts say which epoch they obey
        known = load_head(store)
    record = HeadRecord(new_id) if known is None else taken_over(known, new_id)
    save_head(store, record, at)
    return record
