"""The convergence's part of `ControlClient`."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeVar

from partitiond.core.convergence import Convergence

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
        """How far a plan is; without an id the applied one, and what the daemon is about to do.

        Raises NotFoundError: no plan of that id was applied.
        """
        return self._get(Convergence, _PATH, _query(plan_id))

    def watch_convergence(self: _Calls, plan_id: str | None = None) -> Iterator[Convergence]:
        """The same now and each time it changes.

        Ends once it is converging no more, or with the daemon: the last one says which. Closing
        the iterator closes the stream.

        Raises:
            NotFoundError: no plan of that id was applied.
            DaemonUnreachableError: the stream broke.
            DaemonTimeoutError: nothing came of it.
        """
        return self._watch(Convergence, _PATH, _query(plan_id))


def _query(plan_id: str | None) -> dict[str, str] | None:
    return None if plan_id is None else {"plan_id": plan_id}
