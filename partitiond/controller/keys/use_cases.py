"""Makes, changes, rotates and removes API keys, and tells the proxy at once."""

import dataclasses
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from partitiond.controller.journal import Journal
from partitiond.controller.runtime.loop import Controller
from partitiond.controller.runtime.proxy_process import Endpoint
from partitiond.controller.runtime.routes import key_route
from partitiond.core.dispatch.routing import KeyRoute, RoutingTable
from partitiond.core.errors import ConflictError, InputError, NotFoundError, NotReadyError
from partitiond.core.instants import unix_seconds, utc_iso
from partitiond.core.keys.record import KeyRecord, KeyTerms, differences
from partitiond.core.views.lists import KeyView
from partitiond.platform.fault_points import FaultPoint, reached
from partitiond.ports import Clock
from partitiond.store import Store

KEY_BYTES: Final = 32
"""256 random bits cannot be guessed, so a plain SHA-256 of a key may be stored."""
MAX_GRACE_SECONDS: Final = 90 * 86400.0
"""If an old secret is accepted for longer than this, it was not replaced."""
TELL_SECONDS: Final = 2.0
"""Longest wait for the proxy to have a change, which takes milliseconds. Without a proxy the change
is in the store all the same, and in the first table that the next proxy gets."""
NO_ANSWER: Final = "it has not taken the new table in time."
_TERMS: Final = tuple(field.name for field in dataclasses.fields(KeyTerms))


def new_secret() -> tuple[str, str]:
    """Return a new key, which is shown once and not kept, and its hex SHA-256."""
    key = f"sk-{secrets.token_urlsafe(KEY_BYTES)}"
    return key, hashlib.sha256(key.encode()).hexdigest()


class Keys:
    """Implements the use cases of keys."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        journal: Journal,
        endpoint: Endpoint,
        controller: Controller,
    ) -> None:
        self._store = store
        self._clock = clock
        self._journal = journal
        self._endpoint = endpoint
        self._controller = controller

    async def create(self, terms: KeyTerms) -> tuple[KeyRecord, str]:
        """Create a key; return its record and the key. Raises NotFoundError, InputError."""
        terms = dataclasses.replace(terms, models=self._registered(terms.models, ()))
        self._refuse_past(terms.expires_at)
        key, digest = new_secret()
        now = self._clock.utc_iso()
        record = KeyRecord(
            id=f"key-{secrets.token_hex(4)}",
            sha256=digest,
            created_at=now,
            updated_at=now,
            **_values(terms),
        )
        self._store.add_key(record)
        reached(FaultPoint.KEY_STORED)
        self._journal.note("key-created", record.id, terms.label or "without a label")
        await self._tell(record.id)
        return record, key

    def keys(self) -> Sequence[KeyRecord]:
        """All keys, oldest first."""
        return self._store.keys()

    def key(self, key_id: str) -> KeyRecord:
        """Raises NotFoundError."""
        return self._store.key(key_id)

    async def show(self, key_id: str) -> KeyView:
        """One key, and how much of it is used. Raises NotFoundError."""
        record = self._store.key(key_id)
        use = await self._endpoint.key_use()
        return KeyView(record, None if use is None else use.get(key_id))

    async def update(self, key_id: str, terms: KeyTerms) -> KeyRecord:
        """Change what a key may do. Raises NotFoundError, InputError."""
        old = self._store.key(key_id)
        terms = dataclasses.replace(terms, models=self._registered(terms.models, old.models))
        if terms.expires_at != old.expires_at:
            self._refuse_past(terms.expires_at)
        changed = differences(old, terms)
        if not changed:
            return old
        record = dataclasses.replace(old, updated_at=self._clock.utc_iso(), **_values(terms))
        self._store.update_key(record)
        self._journal.note("key-changed", key_id, f"changed: {', '.join(changed)}.")
        await self._tell(key_id)
        return record

    async def rotate(self, key_id: str, grace_seconds: float) -> tuple[KeyRecord, str]:
        """Give the key another secret; the present one is accepted until the grace ends.

        A former secret that was still accepted ends at once: there are two at most.

        Raises:
            NotFoundError: there is no such key.
            InputError: the grace is out of range.
            ConflictError: the key has expired.
        """
        if not 0 <= grace_seconds <= MAX_GRACE_SECONDS:
            raise InputError(
                f"the grace must be between 0 and {MAX_GRACE_SECONDS:g} seconds, "
                f"got {grace_seconds!r}.",
                hint="0 refuses the old secret at once.",
            )
        old = self._store.key(key_id)
        now = self._now()
        if old.expires_at is not None and unix_seconds(old.expires_at) <= now:
            raise ConflictError(
                f"key {key_id} has expired: a new secret of it would be refused, too.",
                hint="Give it another expiry first, or make a new key.",
                facts={"key": key_id, "expires_at": old.expires_at},
            )
        key, digest = new_secret()
        until = utc_iso(now + grace_seconds) if grace_seconds else None
        record = dataclasses.replace(
            old,
            sha256=digest,
            previous_sha256=old.sha256 if until else "",
            previous_until=until,
            updated_at=self._clock.utc_iso(),
        )
        self._store.update_key(record)
        what = f"until {until}." if until else "no longer."
        self._journal.note("key-rotated", key_id, f"the secret before is taken {what}")
        await self._tell(key_id)
        return record, key

    async def remove(self, key_id: str) -> None:
        """Remove a key, and return once the endpoint refuses it.

        If it is called again, it waits again for an endpoint that still accepts the key.

        Raises:
            NotFoundError: there is no such key.
            NotReadyError: the key is removed, but the endpoint of a host may still take it: it was
                not told. The fact `unconfirmed_hosts` lists the hosts, if there are several.
        """
        try:
            self._store.remove_key(key_id)
        except NotFoundError:
            if not self._endpoint.may_take(key_id):
                raise
        else:
            self._journal.note("key-removed", key_id, "it is not in the store any more.")
        told = await self._tell(key_id)
        late = sorted(self._unconfirmed(key_id))
        if not told or late:
            raise NotReadyError(
                f"{key_id} is removed, but not confirmed by {', '.join(late) or 'the endpoint'}: "
                "an endpoint may still take it.",
                hint="Ask again until this succeeds; to be sure at once, stop the endpoint there.",
                facts={"key": key_id}
                | ({} if told else {"endpoint": self._endpoint.problem or NO_ANSWER})
                | ({"unconfirmed_hosts": late} if late else {}),
            )

    def _now(self) -> float:
        return unix_seconds(self._clock.utc_iso())

    def _refuse_past(self, expires_at: str | None) -> None:
        if expires_at is not None and unix_seconds(expires_at) <= self._now():
            raise InputError(
                f"the expiry {expires_at} is not in the future.",
                hint="Give a later time; to refuse a key from now on, remove it.",
                facts={"expires_at": expires_at},
            )

    def _registered(self, asked: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
        """Return the registered names of models that are named by name or alias.

        A typing error would lock the key's user out, so an unknown model is refused. A model that
        the key names already may have been removed since.
        """
        names = {record.spec.name: record.spec.name for record in self._store.models()}
        for record in self._store.models():
            names |= dict.fromkeys(record.spec.aliases, record.spec.name)
        for name in asked:
            if name not in names and name not in known:
                raise NotFoundError(
                    f"there is no model {name}.",
                    hint="A key names models that are registered; `partitiond models` shows them.",
                    facts={"model": name},
                )
        return tuple(dict.fromkeys(names.get(name, name) for name in asked))

    async def _tell(self, key_id: str) -> bool:
        """Return once the proxy does as the store says: a new key may be used at once.

        If a host's proxy does not in time, an event says so: it must not seem that a key is refused
        while it is still accepted.

        Returns:
            Whether the own host's proxy does as the store says.
        """
        self._controller.wake()
        told = await self._endpoint.await_table(lambda t: self._is_told(key_id, t), TELL_SECONDS)
        if not told:
            why = self._endpoint.problem or NO_ANSWER
            self._journal.note(
                "key-not-in-force", key_id, f"the endpoint still serves by the terms before: {why}"
            )
        with self._journal.one_transaction():
            for host, why in self._unconfirmed(key_id).items() if told else ():
                self._journal.note(
                    "key-not-in-force",
                    key_id,
                    f"the endpoint of {host} still serves by the terms before: {why}",
                )
        return told

    def _unconfirmed(self, key_id: str) -> Mapping[str, str]:
        return self._endpoint.unconfirmed(lambda table: self._is_told(key_id, table))

    def _is_told(self, key_id: str, table: RoutingTable) -> bool:
        try:
            wanted: KeyRoute | None = key_route(self._store.key(key_id))
        except NotFoundError:
            wanted = None
        return next((key for key in table.keys if key.id == key_id), None) == wanted


def _values(terms: KeyTerms) -> dict[str, Any]:
    return {name: getattr(terms, name) for name in _TERMS}
