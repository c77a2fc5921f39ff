"""Combines several workloads in one run, by shares of common arrivals or as separate streams."""

import dataclasses
import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

from loadgen.load.lengths import Drawn, uniform
from loadgen.load.workload import Request, RequestFactory, Workload


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One workload of a mix and its share of the requests; shares are weights."""

    name: str
    workload: Workload
    share: float


@dataclasses.dataclass(frozen=True, slots=True)
class Mix:
    """A mix of workloads: each request's part is drawn by the shares, the same for the same seed.

    Splitting Poisson arrivals at random gives independent Poisson arrivals of each part.

    Raises:
        ValueError: there is no part, a name comes twice, a share is not above 0, or a part
            replays a trace's lengths in order (give it arrivals of its own).
    """

    parts: tuple[Part, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a mix needs at least one part")
        if len({part.name for part in self.parts}) < len(self.parts):
            raise ValueError("the names of a mix's parts must differ")
        for part in self.parts:
            if not 0 < part.share < math.inf:
                raise ValueError(f"the share of {part.name!r} must be above 0, got {part.share!r}")
            if part.workload.distribution.drawn is Drawn.IN_ORDER:
                raise ValueError(f"{part.name!r} replays a trace: give it arrivals of its own")


@dataclasses.dataclass(frozen=True, slots=True)
class Stream:
    """One workload with arrivals of its own: offsets in seconds, growing."""

    name: str
    workload: Workload
    arrivals: Iterator[float]


class Source(Protocol):
    """Provides the requests of a loop."""

    @property
    def models(self) -> str:
        """Names of the served models, for messages."""

    def request(self, index: int, output_tokens: int | None = None) -> Request:
        """Request `index`; `output_tokens` replaces its output length."""

    def output_tokens(self, index: int) -> int:
        """Output length of request `index`."""


class MixFactory:
    """Requests of a mix; the n-th is a function of the mix and n alone."""

    def __init__(self, mix: Mix) -> None:
        self._mix = mix
        self._factories = [RequestFactory(part.workload, part.name) for part in mix.parts]
        self._bounds = list(itertools.accumulate(part.share for part in mix.parts))

    @property
    def models(self) -> str:
        """Names of the served models, for messages."""
        return ", ".join(dict.fromkeys(factory.models for factory in self._factories))

    def request(self, index: int, output_tokens: int | None = None) -> Request:
        """Request `index` of the mix."""
        return self._factory(index).request(index, output_tokens)

    def output_tokens(self, index: int) -> int:
        """Output length of request `index`."""
        return self._factory(index).output_tokens(index)

    def _factory(self, index: int) -> RequestFactory:
        # The constant keeps these draws apart from the parts' own, whose seed may equal the mix's.
        drawn = uniform(index, self._mix.seed ^ 0x5EED_0F_A_3117) * self._bounds[-1]
        at = next((i for i, bound in enumerate(self._bounds) if drawn < bound), -1)
        return self._factories[at]


def source_of(load: Workload | Mix) -> Source:
    """The requests of a workload or a mix."""
    return MixFactory(load) if isinstance(load, Mix) else RequestFactory(load)


@dataclasses.dataclass(frozen=True, slots=True)
class Due:
    """A request that is due: request `index` of `source`, at an offset in seconds."""

    at: float
    source: Source
    index: int


def schedule(source: Source, arrivals: Iterator[float]) -> Iterator[Due]:
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
