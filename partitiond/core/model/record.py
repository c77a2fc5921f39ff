"""Defines a registered model as the store keeps it."""

import dataclasses

from partitiond.core.model.spec import ModelSpec


@dataclasses.dataclass(frozen=True, slots=True)
class ModelRecord:
    """A registered model as stored.

    Attributes:
        version: grows with each change; the API's ETag.
        created_at, updated_at: ISO 8601 UTC.
    """

    spec: ModelSpec
    version: int
    created_at: str
    updated_at: str
