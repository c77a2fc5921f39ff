"""Adds the convergence calls to `ControlClient`."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeVar

from partitiond.core.replica.convergence import Convergence

T = TypeVar("T")
_PATH = "/plan/convergence"


class _Calls(Protocol):
    def _get(self, kind: type[T], path: str, query: Mapping[str, Any] | None = None) -> T: ...

    def _watch(
        self, kind: type[T], path: str, query: Mapping[str, Any] | None = None
    ) -> Iterator[T]: ...


class ConvergenceCalls:
    """Mixed into `ControlClient`."""

    def convergence(self: _Calls, plan_id: str | None = None) -> Convergence:
        """Return the progress of a plan, by default the applied one, and the daemon's next steps.

        Raises NotFoundError: no plan of that id was applied.
        """
        return self._get(Convergence, _PATH, _query(plan_id))

    def watch_convergence(self: _Calls, plan_id: str | None = None) -> Iterator[Convergence]:
        """Yield the progress now and each time it changes.

        The iterator ends once the plan is no longer converging, or when the daemon ends: the last
        item tells which. Closing the iterator closes the stream.

        Raises:
            NotFoundError: no plan of that id was applied.
            DaemonUnreachableError: the stream broke.
            DaemonTimeoutError: the daemon did not answer in time.
        """
        return self._watch(Convergence, _PATH, _query(plan_id))


def _query(plan_id: str | None) -> dict[str, str] | None:
    return None if plan_id is None else {"plan_id": plan_id}
