"""Defines the check whether one more model fits, before it is registered."""

from typing import Protocol

from partitiond.core.model.spec import ModelSpec
from partitiond.core.views.fit import Fit


class FitCheck(Protocol):
    """Tells whether a model fits."""

    async def check(self, spec: ModelSpec) -> Fit:
        """Plan as if the model were registered. Nothing is changed.

        Raises:
            SpecError, ModelSourceError: the model cannot be fetched, or cannot run here.
        """
        ...
