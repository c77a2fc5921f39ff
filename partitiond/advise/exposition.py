"""Reads samples from Prometheus text, with `prometheus_client`'s parser.

Lines that it refuses are skipped: one odd metric should not hide the others.
"""

import contextlib
import math
import re
from collections.abc import Container, Iterator
from typing import Final

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

_NAME_END: Final = re.compile(r"[{ \t]")


def parse(text: str, names: Container[str]) -> Iterator[Sample]:
    """Yield samples of the metrics with these names; NaN is left out."""
    for line in text.splitlines():
        # Most lines are not wanted: the name, which is quick to find, is enough to tell.
        if _NAME_END.split(line, maxsplit=1)[0] not in names:
            continue
        families: list[Metric] = []
        with contextlib.suppress(ValueError, IndexError):
            families = list(text_string_to_metric_families(line))
        yield from (s for family in families for s in family.samples if not math.isnan(s.value))
