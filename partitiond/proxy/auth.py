"""API keys: the SHA-256 of the presented key, compared in constant time, and the key's scope.

Keys are 256 random bits, so a plain hash of one may be stored and may be looked up: how long the
look-up takes depends on the hash, which nobody can steer towards a stored one. The comparison
itself is constant-time all the same.
"""

import dataclasses
import hashlib
import hmac
import time
from collections.abc import Iterable
from typing import Final

from partitiond.core.routing import (
    NO_KEY_RATES,
    NO_REQUEST_LIMITS,
    KeyRates,
    KeyRoute,
    RequestLimits,
    RouteKind,
)
from partitiond.proxy.errors import BAD_KEY, NO_KEY, ApiError


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        key_id: public name of the key, or empty without one.
        models: models it may use; empty for all.
        routes: kinds of routes it may use; empty for all.
        priority, weight, limits, rates: see `KeyRoute`.
    """

    key_id: str = ""
    models: frozenset[str] = frozenset()
    routes: frozenset[RouteKind] = frozenset()
    priority: int = 0
    weight: float = 1.0
    limits: RequestLimits = NO_REQUEST_LIMITS
    rates: KeyRates = NO_KEY_RATES

    def may_use(self, model: str) -> bool:
        """Whether the model is within the key's scope."""
        return not self.models or model in self.models

    def may_call(self, kind: RouteKind) -> bool:
        """Whether routes of this kind are within the key's scope."""
        return not self.routes or kind in self.routes


ANYONE: Final = Caller()


@dataclasses.dataclass(frozen=True, slots=True)
class _Secret:
    """One secret of a key, and until when it is taken (Unix seconds; 0 for always)."""

    digest: bytes
    until: float
    caller: Caller


class KeyRing:
    """The keys of one routing table.

    Attributes:
        expires: one of them, or a former secret, is not taken for ever.
    """

    def __init__(self, keys: Iterable[KeyRoute], *, required: bool) -> None:
        self._required = required
        self._secrets: dict[bytes, _Secret] = {}
        self.expires = False
        for key in keys:
            caller = Caller(
                key.id, frozenset(key.models), frozenset(key.routes), key.priority, key.weight,
                key.limits, key.rates,
            )  # fmt: skip
            if key.previous_sha256 and key.previous_until:
                until = min(x for x in (key.previous_until, key.expires_at) if x)
                self._add(key.previous_sha256, until, caller)
            self._add(key.sha256, key.expires_at, caller)

    def _add(self, sha256: str, until: float, caller: Caller) -> None:
        digest = bytes.fromhex(sha256)
        self.expires = self.expires or bool(until)
        self._secrets[digest] = _Secret(digest, until, caller)

    def identify(self, key: bytes) -> Caller | ApiError:
        """The caller of a request with this key (empty for none).

        Without required keys an unknown key counts as none: OpenAI's clients always send one. A
        known key keeps its scope either way.
        """
        if not self._secrets:
            return ANYONE if not self._required else BAD_KEY if key else NO_KEY
        if key:
            digest = hashlib.sha256(key).digest()
            secret = self._secrets.get(digest)
            if (
                secret is not None
                and hmac.compare_digest(secret.digest, digest)
                and not (secret.until and time.time() >= secret.until)
            ):
                return secret.caller
        if not self._required:
            return ANYONE
        return BAD_KEY if key else NO_KEY
