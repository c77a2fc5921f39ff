"""Making API keys."""

import hashlib
import secrets
from collections.abc import Sequence
from typing import Final

from partitiond.ports import KeyRecord

KEY_BYTES: Final = 32
"""256 random bits: nobody guesses one, so a plain SHA-256 of it may be stored."""


def new_key(label: str, models: Sequence[str], created_at: str) -> tuple[KeyRecord, str]:
    """A record to keep, and the key itself, which is shown once and not kept.

    Args:
        label: what the owner calls it.
        models: models it may use; empty for all.
        created_at: ISO 8601 UTC.
    """
    key = f"sk-{secrets.token_urlsafe(KEY_BYTES)}"
    record = KeyRecord(
        id=f"key-{secrets.token_hex(4)}",
        sha256=hashlib.sha256(key.encode()).hexdigest(),
        label=label,
        models=tuple(models),
        created_at=created_at,
    )
    return record, key
