"""Defines the answer to whether a model fits beside the running plan."""

import dataclasses

from partitiond.core.views.overview import FrontierView
from partitiond.core.views.preview import PlanPreview


@dataclasses.dataclass(frozen=True, slots=True)
class Fit:
    """What a plan would be with a model that is not registered, or registered otherwise.

    Attributes:
        model: its name.
        fits: it gets all that it asks for, and no other model loses anything.
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
