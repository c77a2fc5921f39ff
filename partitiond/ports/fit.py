"""Defines the check whether one more model fits, before it is registered."""

import dataclasses
from typing import Protocol

from partitiond.core.model.spec import ModelSpec
from partitiond.ports.overview import FrontierView
from partitiond.ports.preview import PlanPreview


@dataclasses.dataclass(frozen=True, slots=True)
class Fit:
    """What a plan would be with a model that is not registered, or registered otherwise.

    Attributes:
        model: its name.
        fits: it gets all that it asks for, and nobody else loses anything.
        summary: the same in a few words, each a sentence.
        registered: the name is taken: this is what changing that model would do.
        preview: the plan and what it would change; it cannot be applied.
        frontiers: what the plan rests on for this model, those that it would use first.
    """

    model: str
    fits: bool
    summary: tuple[str, ...]
    registered: bool
    preview: PlanPreview
    frontiers: tuple[FrontierView, ...]


class FitCheck(Protocol):
    """Tells whether a model fits."""

    async def check(self, spec: ModelSpec) -> Fit:
        """Plan as if the model were registered. Nothing is changed.

        Raises:
            SpecError, ModelSourceError: the model cannot be fetched, or cannot run here.
        """
        ...
