"""Adds the calls about models with autoscaling to `ControlClient`."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from partitiond.client.bodies import quoted
from partitiond.core.views.scaling import ScalingView

T = TypeVar("T")


class _Gets(Protocol):
    def _get(self, kind: type[T], path: str, query: Mapping[str, Any] | None = None) -> T: ...


class ScalingCalls:
    """Mixed into `ControlClient`."""

    def scaling(self: _Gets) -> Sequence[ScalingView]:
        """Return all models with autoscaling, by name."""
        return self._get(list[ScalingView], "/scaling")

    def scaling_of(self: _Gets, model: str) -> ScalingView:
        """Return one model with autoscaling. Raises NotFoundError, ConflictError."""
        return self._get(ScalingView, f"/scaling/{quoted(model)}")
