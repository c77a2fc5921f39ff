"""Adds the usage call to `ControlClient`."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from partitiond.core.views.usage import UsageReport

T = TypeVar("T")


class _Gets(Protocol):
    def _get(self, kind: type[T], path: str, query: Mapping[str, Any] | None = None) -> T: ...


class UsageCalls:
    """Mixed into `ControlClient`."""

    def usage(
        self: _Gets, since: str | None = None, until: str | None = None, by: Sequence[str] = ()
    ) -> UsageReport:
        """Return the use of models by keys between two times (ISO 8601), by key and model."""
        asked = {"from": since, "to": until, "by": list(by) or None}
        query = {name: value for name, value in asked.items() if value is not None}
        return self._get(UsageReport, "/usage", query)
