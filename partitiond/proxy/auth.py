"""API keys: SHA-256 of the presented key, compared in constant time, and the key's scope."""

import dataclasses
import hashlib
import hmac
from collections.abc import Iterable
from typing import Final

from partitiond.core.routing import KeyRoute
from partitiond.proxy.errors import BAD_KEY, NO_KEY, ApiError


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        key_id: public name of the key, or empty without one.
        models: models it may use; empty for all.
    """

    key_id: str = ""
    models: frozenset[str] = frozenset()

    def may_use(self, model: str) -> bool:
        """Whether the model is within the key's scope."""
        return not self.models or model in self.models


ANYONE: Final = Caller()


class KeyRing:
    """The keys of one routing table."""

    def __init__(self, keys: Iterable[KeyRoute], *, required: bool) -> None:
        self._required = required
        self._keys = tuple(
            (key.sha256.lower().encode(), Caller(key.id, frozenset(key.models))) for key in keys
        )

    def identify(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller | ApiError:
        """The caller of a request.

        Without required keys an unknown key counts as none: OpenAI's clients always send one. A
        known key keeps its scope either way. Two Authorization headers are no key at all.
        """
        if not self._required and not self._keys:
            return ANYONE
        key = _bearer(headers)
        found = self._match(key)
        if found is not None:
            return found
        if not self._required:
            return ANYONE
        return BAD_KEY if key else NO_KEY

    def _match(self, key: bytes) -> Caller | None:
        if not key:
            return None
        digest = hashlib.sha256(key).hexdigest().encode()
        found = None
        for known, caller in self._keys:  # never left early: the time tells nothing
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def _bearer(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    values = [value for name, value in headers if name == b"authorization"]
    if len(values) != 1:
        return b""
    scheme, _, key = values[0].partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""
