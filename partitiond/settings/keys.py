"""Defines the settings' table `[keys]`."""

from typing import Final

from pydantic import Field, field_validator

from partitiond.serde import Table

SHORTEST_STALE_SECONDS: Final = 10.0
"""With less, one slow pass of the control plane's loop would refuse all keys. Chosen."""


class KeysSettings(Table):
    """API keys of the endpoint."""

    stale_seconds: float | None = Field(
        None,
        ge=0,
        description="An endpoint that had no word from its control plane for so long refuses all "
        "keys (503, keys_stale), in seconds: it may have missed that one was removed. 0 for never, "
        "else 10 at least. Unset is 0: that a head is away closes no key.",
    )

    @field_validator("stale_seconds")
    @classmethod
    def _not_too_short(cls, value: float | None) -> float | None:
        if value is not None and 0.0 < value < SHORTEST_STALE_SECONDS:
            raise ValueError(
                f"keys.stale_seconds is {value:g}: give {SHORTEST_STALE_SECONDS:g} or more, or 0 "
                "to never refuse keys"
            )
        return value
