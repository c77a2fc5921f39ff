"""Reads the counters and gauges of a proxy process."""

from collections.abc import Mapping

from partitiond.core.errors import PartitiondError
from partitiond.proxy.supervisor import ProxyProcess


async def stats_of(process: ProxyProcess) -> Mapping[str, float]:
    """Of one scrape; empty if the proxy cannot be reached."""
    try:
        return parse_samples(await process.metrics_text())
    except PartitiondError:
        return {}


def parse_samples(text: str) -> dict[str, float]:
    """Samples of Prometheus text by full name, and sums over labels by bare name, no buckets."""
    samples: dict[str, float] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        full, _, value = line.rpartition(" ")
        name = full.partition("{")[0]
        if name.endswith(("_bucket", "_created")):
            continue
        samples[full] = float(value)
        if full != name:
            samples[name] = samples.get(name, 0.0) + float(value)
    return samples
