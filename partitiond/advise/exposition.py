"""Parses Prometheus text to samples.

The parser reads the text format 0.0.4 and what OpenMetrics adds to a sample's line (exemplars,
timestamps). It skips lines that are not samples: one odd metric should not hide the others.
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
    """The samples of one address at one time.

    Attributes:
        at_seconds: seconds since the observation began.
        samples: samples as received; their order means nothing.
    """

    at_seconds: float
    samples: tuple[Sample, ...]


def parse(text: str, names: Container[str] | None = None) -> Iterator[Sample]:
    """Yield samples of the metrics with these names, or of all metrics; NaN is left out."""
    for line in text.splitlines():
        # Most lines are not wanted: the name, which is quick to find, is enough to tell.
        if names is not None and _NAME_END.split(line, maxsplit=1)[0] not in names:
            continue
        match = _SAMPLE.match(line)
        value = None if match is None else number(match["value"])
        if match is not None and value is not None:
            yield Sample(match["name"], labels_of(match["labels"] or ""), value)


def labels_of(text: str) -> dict[str, str]:
    """Return the labels between the braces, unescaped."""
    return {
        name: _ESCAPE.sub(lambda m: _ESCAPED.get(m[1], m[0]), value)
        for name, value in _LABEL.findall(text)
    }


def number(text: str) -> float | None:
    """Parse a number as Prometheus writes it ("+Inf" included); None for NaN and for other text."""
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value
