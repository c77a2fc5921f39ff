"""Adds the drift calls to `ControlClient`."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from partitiond.client.bodies import quoted
from partitiond.core.drift.correction import Correction
from partitiond.core.drift.detection import LedgerEntry
from partitiond.core.views.drift import DriftReport

T = TypeVar("T")


class _Calls(Protocol):
    def _get(self, kind: type[T], path: str, query: Mapping[str, Any] | None = None) -> T: ...

    def _call(self, method: str, path: str) -> bytes: ...

    def _read(self, kind: type[T], content: bytes) -> T: ...


class DriftCalls:
    """Mixed into `ControlClient`."""

    def drift(self: _Calls) -> DriftReport:
        """Return replicas against their predictions, corrections, and profiles to measure again."""
        return self._get(DriftReport, "/drift")

    def ledger(
        self: _Calls, model: str | None = None, replica_id: str | None = None, limit: int = 200
    ) -> Sequence[LedgerEntry]:
        """Return windows of predicted and measured figures, newest first."""
        query = {"model": model, "replica_id": replica_id, "limit": limit}
        given = {name: value for name, value in query.items() if value is not None}
        return self._get(list[LedgerEntry], "/drift/ledger", given)

    def lift_correction(self: _Calls, profile_id: str) -> Correction:
        """Remove a correction. Raises NotFoundError."""
        content = self._call("DELETE", f"/drift/corrections/{quoted(profile_id)}")
        return self._read(Correction, content)
