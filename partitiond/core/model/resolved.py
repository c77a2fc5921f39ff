"""Defines a model whose files have been found."""

import dataclasses
from pathlib import Path

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
        parser_flags: flags of the engine that the catalog has for the model's tool calls; they
            need its own tokenizer.
    """

    spec: ModelSpec
    folder: Path
    revision: str | None
    architecture: Architecture
    dummy_weights: bool
    parser_flags: tuple[str, ...] = ()
