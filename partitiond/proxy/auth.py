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

from partitiond.core.places import EVERYBODY, Share
from partitiond.core.routing import NO_REQUEST_LIMITS, KeyRoute, RequestLimits, RouteKind
from partitiond.proxy.errors import BAD_KEY, NO_KEY, ApiError


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        key_id: public name of the key, or empty without one.
        models: models it may use; empty for all.
        routes: kinds of routes it may use; empty for all.
        limits: of one request, or None.
        share: its part of a queue.
    """

    key_id: str = ""
    models: frozenset[str] = frozenset()
    routes: frozenset[RouteKind] = frozenset()
    limits: RequestLimits | None = None
    share: Share = EVERYBODY

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
        required: requests need one of them.
        expires: one of them, or a former secret, is not taken for ever.
    """

    def __init__(self, keys: Iterable[KeyRoute], *, required: bool) -> None:
        self.required = required
        self._secrets: dict[bytes, _Secret] = {}
        self.expires = False
        for key in keys:
            caller = Caller(
                key.id,
                frozenset(key.models),
                frozenset(key.routes),
                None if key.limits == NO_REQUEST_LIMITS else key.limits,
                Share(key.id, key.weight, key.priority),
            )
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
            return ANYONE if not self.required else BAD_KEY if key else NO_KEY
        if key:
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
        return BAD_KEY if key else NO_KEY
