"""Defines the settings' table `[keys]`."""

from typing import Final

from pydantic import Field, field_validator

from partitiond.settings.types import Table

SHORTEST_STALE_SECONDS: Final = 10.0
"""With less, one slow pass of the control plane's loop would refuse all keys. Chosen."""


CLUSTER_STALE_SECONDS: Final = 3600.0
"""Taken with a cluster. Chosen: a head may be away for an hour, as for an upgrade or another head,
and a key that was removed is of no use after the same hour on a host that is cut off."""


class KeysSettings(Table):
    """API keys of the endpoint."""

    stale_seconds: float | None = Field(
        None,
        ge=0,
        description="An endpoint that had no word from its control plane for so long refuses all "
        "keys (503, keys_stale), in seconds: it may have missed that one was removed. 0 for never, "
        "else 10 at least. Unset takes 3600 on the head of a cluster, and 0 without a cluster.",
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
