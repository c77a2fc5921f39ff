"""Prometheus text to samples.

Reads the text format 0.0.4 and what OpenMetrics adds to a sample's line (exemplars, timestamps).
A line that is no sample is left out: one odd metric should not hide the others.
"""

import dataclasses
import math
import re
from collections.abc import Container, Iterator, Mapping
from typing import Final

_SAMPLE: Final = re.compile(
    r"""^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
        (?:\{(?P<labels>(?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?
        [ \t]+(?P<value>\S+)""",
    re.VERBOSE,
)
_NAME_END: Final = re.compile(r"[{ \t]")
_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"')
_ESCAPE: Final = re.compile(r"\\(.)")
_ESCAPED: Final = {"n": "\n", '"': '"', "\\": "\\"}


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One value of one metric."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclasses.dataclass(frozen=True, slots=True)
class Scrape:
    """What one address said at one moment.

    Attributes:
        at_seconds: since the observation began.
        samples: as they were told; order means nothing.
    """

    at_seconds: float
    samples: tuple[Sample, ...]


def parse(text: str, names: Container[str] | None = None) -> Iterator[Sample]:
    """Samples of the metrics with these names, or of all; NaN is no value and is left out."""
    for line in text.splitlines():
        # Most lines are not wanted: their name is enough to see it, and is quick to find.
        if names is not None and _NAME_END.split(line, maxsplit=1)[0] not in names:
            continue
        match = _SAMPLE.match(line)
        value = None if match is None else number(match["value"])
        if match is not None and value is not None:
            yield Sample(match["name"], labels_of(match["labels"] or ""), value)


def labels_of(text: str) -> dict[str, str]:
    """Labels between the braces, unescaped."""
    return {
        name: _ESCAPE.sub(lambda m: _ESCAPED.get(m[1], m[0]), value)
        for name, value in _LABEL.findall(text)
    }


def number(text: str) -> float | None:
    """A number as Prometheus writes it ("+Inf" included); None for NaN and for what is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value
