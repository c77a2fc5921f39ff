"""Combines several workloads in one run, as streams with arrivals of their own."""

import dataclasses
import heapq
from collections.abc import Iterator, Sequence

from loadgen.load.workload import RequestFactory, Workload


@dataclasses.dataclass(frozen=True, slots=True)
class Stream:
    """One workload with arrivals of its own: offsets in seconds, growing."""

    name: str
    workload: Workload
    arrivals: Iterator[float]


@dataclasses.dataclass(frozen=True, slots=True)
class Due:
    """A request that is due: request `index` of `source`, at an offset in seconds."""

    at: float
    source: RequestFactory
    index: int


def schedule(source: RequestFactory, arrivals: Iterator[float]) -> Iterator[Due]:
    """Requests of one source in the order they are due."""
    return (Due(at, source, index) for index, at in enumerate(arrivals))


def merged(streams: Sequence[Stream]) -> Iterator[Due]:
    """Requests of all streams in the order they are due.

    Raises:
        ValueError: there is no stream, or a name comes twice.
    """
    if not streams or len({stream.name for stream in streams}) < len(streams):
        raise ValueError("streams must be at least one, with different names")
    schedules = [schedule(RequestFactory(s.workload, s.name), s.arrivals) for s in streams]
    return heapq.merge(*schedules, key=lambda due: due.at)
