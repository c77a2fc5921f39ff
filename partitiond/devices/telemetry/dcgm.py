"""Reads the figures of a GPU, by its UUID, from the Prometheus text of a DCGM exporter.

The exporter samples at its own interval (30 s by default; use `--collect-interval 1000` for windows
of seconds), and its figures are means of its last interval.
"""

import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Final

from partitiond.core.errors import DeviceError

TIMEOUT_SECONDS: Final = 2.0
MAX_BYTES: Final = 8 * 1024 * 1024
"""A host of eight GPUs with every field exported answers with about 200 KiB."""

_FIELDS: Final[Mapping[str, tuple[str, float]]] = {
    "DCGM_FI_PROF_SM_ACTIVE": ("sm_activity", 1.0),
    "DCGM_FI_PROF_SM_OCCUPANCY": ("sm_occupancy", 1.0),
    "DCGM_FI_PROF_DRAM_ACTIVE": ("dram_activity", 1.0),
    "DCGM_FI_DEV_GPU_UTIL": ("gpu_util", 0.01),
    "DCGM_FI_DEV_POWER_USAGE": ("power_watts", 1.0),
}
"""Figure and factor: the profiling fields are shares, utilisation is in percent."""

_LINE: Final = re.compile(r"^(\w+)\{(.*)\}\s+(\S+)(?:\s+\d+)?$")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def parse(text: str, uuid: str) -> dict[str, float]:
    """Return the figures of one GPU from an exporter's text, without those of its MIG slices."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None or match.group(1) not in _FIELDS:
            continue
        labels = dict(_LABEL.findall(match.group(2)))
        if labels.get("UUID") != uuid or labels.get("GPU_I_ID"):
            continue
        figure, factor = _FIELDS[match.group(1)]
        value = _number(match.group(3))
        if value is not None:
            found[figure] = value * factor
    return found


def scrape(url: str, uuid: str) -> dict[str, float]:
    """Read the exporter once and return the GPU's figures.

    Raises:
        DeviceError: the exporter does not answer, or not over HTTP.
    """
    if not url.startswith(("http://", "https://")):
        raise DeviceError(
            f"{url!r} is no address of a DCGM exporter.",
            hint="Write http://127.0.0.1:9400/metrics.",
        )
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            text = answer.read(MAX_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError) as error:  # URLError is an OSError
        raise DeviceError(
            f"the DCGM exporter at {url} does not answer: {_reason(error)}.",
            hint="Start it, or leave its address out.",
        ) from error
    return parse(text, uuid)


def _reason(error: Exception) -> str:
    return str(error.reason if isinstance(error, urllib.error.URLError) else error)


def _number(text: str) -> float | None:
    """Parse a finite number; DCGM writes 0x7ffffff0 and the like for "blank"."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < 1e9 else None
