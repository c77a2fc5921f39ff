"""Adds the overview call and the fit call to `ControlClient`."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from partitiond.client.bodies import spec_body, with_absolute_folder
from partitiond.core.model.spec import ModelSpec
from partitiond.core.views.fit import Fit
from partitiond.core.views.overview import Overview

T = TypeVar("T")

FIT_SECONDS = 180.0
"""Time limit of `fit`, which makes a plan for its answer."""


class _Calls(Protocol):
    def _get(self, kind: type[T], path: str, query: Mapping[str, Any] | None = None) -> T: ...

    def _call(
        self, method: str, path: str, *, body: object = None, timeout: float | None = None
    ) -> bytes: ...

    def _read(self, kind: type[T], content: bytes) -> T: ...


class OverviewCalls:
    """Mixed into `ControlClient`."""

    def overview(self: _Calls, window_seconds: float | None = None) -> Overview:
        """Return the overview, with rates and means over the last `window_seconds` (30)."""
        query = None if window_seconds is None else {"window_seconds": window_seconds}
        return self._get(Overview, "/overview", query)

    def fit(self: _Calls, model: Mapping[str, Any] | ModelSpec) -> Fit:
        """Return whether a model would fit, given as for `register`, before it is registered."""
        body = spec_body(model) if isinstance(model, ModelSpec) else with_absolute_folder(model)
        content = self._call("POST", "/models/fit", body=body, timeout=FIT_SECONDS)
        return self._read(Fit, content)
