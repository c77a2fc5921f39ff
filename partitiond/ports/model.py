"""Defines models as the resolver hands them over."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from partitiond.core.model.architecture import Architecture
from partitiond.core.model.spec import ModelSpec


@dataclasses.dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model whose files are on disk (or that needs none).

    Attributes:
        folder: local folder the engine loads: config, tokenizer, and weights unless dummy.
        revision: commit or package version; None for a plain folder.
        architecture: numbers for footprint and roofline.
        dummy_weights: whether the engine must use its dummy load format.
    """

    spec: ModelSpec
    folder: Path
    revision: str | None
    architecture: Architecture
    dummy_weights: bool


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
