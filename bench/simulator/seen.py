"""Reconstructs engine steps as clients see them, from the times at which tokens came.

Each running sequence gets one token a step, so the second token of a sequence begins the next step.
The time between two consecutive steps that share a sequence is the duration of the later step: the
engine had work all the while. A request's first token comes with the step that read its prompt.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Final, Self

from loadgen.results.statistics import percentile

SHORT_STEP: Final = 0.05
"""The quantile of the gaps between a request's tokens that is taken for a short step. Chosen."""
APART: Final = 0.5
"""If no sequence continues, a first token begins a step if it comes later after the others than
this share of a short step. Chosen."""
LOOK_AHEAD: Final = 64
"""Tokens that are searched for the beginning of the next step. Chosen, not measured."""
_Group = dict[int, tuple[float, int]]
"""Tokens of one step by request: arrival time, and index among the request's tokens."""


@dataclasses.dataclass(frozen=True, slots=True)
class Observed:
    """One answered request, in seconds from an arbitrary origin.

    Attributes:
        arrived: when the request was due.
        token_times: when each of its output tokens came; at least one.
    """

    arrived: float
    prompt_tokens: int
    token_times: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class SeenStep:
    """One step of an engine.

    Attributes:
        began: when the tokens of the previous step came; None if the engine may have been idle.
        ended: when the step's own tokens came.
        seconds: time between the two, as median over the sequences that are in both steps.
        decoding: sequences that decoded.
        first: requests whose first token came with the step.
        prefill_tokens: prompt tokens of those requests.
        kv_tokens: KV tokens that the decodes read.
    """

    began: float | None
    ended: float
    seconds: float
    decoding: int
    first: tuple[int, ...]
    prefill_tokens: int
    kv_tokens: int


def steps_seen(requests: Sequence[Observed]) -> list[SeenStep]:
    """Return the steps of one engine, from all requests that it answered; `first` are indices.

    The second token of a sequence begins the next step, however far apart tokens of one step come
    on a busy host. Only a first token can belong to either step: it is assigned to the nearer one.
    """
    gaps = sorted(b - a for r in requests for a, b in itertools.pairwise(r.token_times))
    apart = APART * percentile(gaps, SHORT_STEP) if gaps else 0.0
    tokens = sorted(
        (at, number, token)
        for number, request in enumerate(requests)
        for token, at in enumerate(request.token_times)
    )
    found: list[SeenStep] = []
    group: _Group = {}
    before: _Group = {}
    last = 0.0
    for index, (at, number, token) in enumerate(tokens):
        begins = number in group
        if group and token == 0:
            begins = at - last > _until_next(tokens, index, group, otherwise=apart)
        if begins:
            found.append(_step(requests, before, group))
            before, group = group, {}
        group[number] = (at, token)
        last = at
    if group:
        found.append(_step(requests, before, group))
    return found


def _until_next(
    tokens: Sequence[tuple[float, int, int]], index: int, group: _Group, *, otherwise: float
) -> float:
    """Return seconds from a token to the next one that surely begins a step, else `otherwise`."""
    for at, number, _ in itertools.islice(tokens, index + 1, index + 1 + LOOK_AHEAD):
        if number in group:
            return at - tokens[index][0]
    return otherwise


def _step(
    requests: Sequence[Observed],
    before: _Group,
    group: _Group,
) -> SeenStep:
    decoding = [(number, token) for number, (_, token) in group.items() if token > 0]
    first = tuple(number for number, (_, token) in group.items() if token == 0)
    gaps = sorted(at - before[number][0] for number, (at, _) in group.items() if number in before)
    ended = _last(group)
    return SeenStep(
        began=_last(before) if gaps else None,
        ended=ended,
        seconds=percentile(gaps, 0.5) if gaps else 0.0,
        decoding=len(decoding),
        first=first,
        prefill_tokens=sum(requests[number].prompt_tokens for number in first),
        kv_tokens=sum(requests[number].prompt_tokens + token for number, token in decoding),
    )


def _last(group: _Group) -> float:
    return max(at for at, _ in group.values())


class Spans:
    """Disjoint time intervals, in order."""

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        self.begins: list[float] = []
        self.ends: list[float] = []
        for begin, end in sorted(spans):
            if self.ends and begin <= self.ends[-1]:
                self.ends[-1] = max(self.ends[-1], end)
            else:
                self.begins.append(begin)
                self.ends.append(end)
        lengths = (end - begin for begin, end in zip(self.begins, self.ends, strict=True))
        self._before = list(itertools.accumulate(lengths, initial=0.0))

    @classmethod
    def of_requests(cls, requests: Iterable[Observed]) -> Self:
        """Return when an engine has work: from the arrival of a request to its last token."""
        return cls((r.arrived, r.token_times[-1]) for r in requests)

    def share(self, begin: float, end: float) -> float:
        """Return the share of an interval that lies within these intervals."""
        return (self._until(end) - self._until(begin)) / (end - begin) if end > begin else 0.0

    def holds(self, at: float) -> bool:
        """Return whether a point in time lies within these intervals."""
        index = bisect.bisect_right(self.begins, at) - 1
        return index >= 0 and at < self.ends[index]

    def _until(self, at: float) -> float:
        index = bisect.bisect_right(self.begins, at) - 1
        if index < 0:
            return 0.0
        return self._before[index] + min(at, self.ends[index]) - self.begins[index]


def crowded_times(engines: Iterable[tuple[int, Spans]], host_cores: int) -> Spans:
    """Return when engines, each with its number of cores, keep all cores of their host busy."""
    changes = sorted(
        change
        for cores, spans in engines
        for begin, end in zip(spans.begins, spans.ends, strict=True)
        for change in ((begin, cores), (end, -cores))
    )
    busy, since, found = 0, 0.0, []
    for at, cores in changes:
        was, busy = busy, busy + cores
        if was < host_cores <= busy:
            since = at
        elif busy < host_cores <= was:
            found.append((since, at))
    return Spans(found)
