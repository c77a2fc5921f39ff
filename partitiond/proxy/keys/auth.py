"""Checks API keys by their SHA-256, compared in constant time, and holds the scope of each key.

Keys are 256 random bits, so it is safe to store a plain hash of a key and to look it up: the time
of the look-up depends on the hash, and an attacker cannot steer a hash towards a stored one. The
comparison itself is constant-time all the same.
"""

import dataclasses
import hashlib
import hmac
import time
from collections.abc import Iterable
from typing import Final

from partitiond.core.dispatch.admission import EVERYBODY, RequestOwner
from partitiond.core.dispatch.routing import NO_REQUEST_LIMITS, KeyRoute, RequestLimits, RouteKind
from partitiond.proxy.keys.last_word import LastWord
from partitiond.proxy.request.errors import BAD_KEY, KEYS_STALE, NO_KEY, ApiError


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request.

    Attributes:
        key_id: public name of the key; empty without a key.
        models: models that the caller may use; empty for all.
        routes: kinds of routes that the caller may use; empty for all.
        limits: of one request, or None.
        share: the caller's part of a queue.
    """

    key_id: str = ""
    models: frozenset[str] = frozenset()
    routes: frozenset[RouteKind] = frozenset()
    limits: RequestLimits | None = None
    share: RequestOwner = EVERYBODY

    def may_use(self, model: str) -> bool:
        """Whether the model is within the key's scope."""
        return not self.models or model in self.models

    def may_call(self, kind: RouteKind) -> bool:
        """Whether routes of this kind are within the key's scope."""
        return not self.routes or kind in self.routes


ANYONE: Final = Caller()


@dataclasses.dataclass(frozen=True, slots=True)
class _Secret:
    """One secret of a key, and until when it is valid (Unix seconds; 0 for always)."""

    digest: bytes
    until: float
    caller: Caller


class KeyRing:
    """The keys of one routing table.

    Attributes:
        required: requests need one of them.
        owners: of requests, by the keys' ids.
        expires: one of the keys, or a former secret of one, expires.

    Args:
        word: says whether the keys are stale; None if they never are.
    """

    def __init__(
        self, keys: Iterable[KeyRoute], *, required: bool, word: LastWord | None = None
    ) -> None:
        self.required = required
        self._word = word
        self._secrets: dict[bytes, _Secret] = {}
        self.expires = False
        self.owners: dict[str, RequestOwner] = {}
        for key in keys:
            owner = self.owners[key.id] = RequestOwner(key.id, key.weight, key.priority)
            caller = Caller(
                key.id,
                frozenset(key.models),
                frozenset(key.routes),
                None if key.limits == NO_REQUEST_LIMITS else key.limits,
                owner,
            )
            if key.previous_sha256 and key.previous_until:
                until = min(x for x in (key.previous_until, key.expires_at) if x)
                self._add(key.previous_sha256, until, caller)
            self._add(key.sha256, key.expires_at, caller)

    def _add(self, sha256: str, until: float, caller: Caller) -> None:
        digest = bytes.fromhex(sha256)
        self.expires = self.expires or bool(until)
        self._secrets[digest] = _Secret(digest, until, caller)

    def is_stale(self) -> bool:
        """Whether all keys have to be refused. Where none is required, a key only limits."""
        return self.required and self._word is not None and self._word.is_stale()

    def identify(self, *keys: bytes) -> Caller | ApiError:
        """Return the caller of a request with these keys; the first that is one of ours counts.

        If keys are not required, an unknown key counts as no key, because OpenAI's clients always
        send one. A known key keeps its scope in both cases.
        """
        if keys and self.is_stale():
            return KEYS_STALE  # of unknown keys, too: the answer does not say which keys exist
        if not self._secrets:
            return ANYONE if not self.required else BAD_KEY if keys else NO_KEY
        for key in keys:
            digest = hashlib.sha256(key).digest()
            secret = self._secrets.get(digest)
            if (
                secret is not None
                and hmac.compare_digest(secret.digest, digest)
                and not (secret.until and time.time() >= secret.until)
            ):
                return secret.caller
        if not self.required:
            return ANYONE
        return BAD_KEY if keys else NO_KEY
