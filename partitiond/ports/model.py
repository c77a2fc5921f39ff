"""Defines the resolver, which finds the files of models."""

from collections.abc import Callable
from typing import Protocol

from partitiond.core.model.architecture import Architecture
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import ModelSpec


class ModelResolver(Protocol):
    """Turns a spec into files on disk."""

    async def architecture(self, spec: ModelSpec) -> Architecture:
        """Return the architecture without fetching weights. Raises ModelSourceError."""
        ...

    async def resolve(
        self, spec: ModelSpec, progress: Callable[[str, float | None], None] | None = None
    ) -> ResolvedModel:
        """Fetch or make what the engine needs. `progress(text, fraction)`."""
        ...
