"""Defines how callers ask for models that scale by themselves."""

from collections.abc import Sequence
from typing import Protocol

from partitiond.core.views.scaling import ScalingView


class Scalings(Protocol):
    """Reports on models that scale by themselves."""

    def views(self) -> Sequence[ScalingView]:
        """Return all views, by the model's name."""
        ...

    def view(self, model: str) -> ScalingView:
        """Return the view of one model.

        Raises:
            NotFoundError: there is no such model.
            ConflictError: the model does not scale by itself.
        """
        ...
