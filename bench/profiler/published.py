"""Holds output rates that others published of vLLM on one GPU, as sources of a fit.

Only those that name model, GPU, lengths and requests in flight. None tells memory or latencies.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.lookup import hardware_for_key
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.workload import Workload
from partitiond.core.performance.estimate import estimate_profile
from partitiond.core.performance.transfer_fit import Source, Subject, source_of
from partitiond.core.profile.points import Latency
from partitiond.core.profile.record import ProfileKind
from partitiond.core.units import Bytes
from partitiond.models.catalog import CATALOG

QWEN: Final = "QwenLM/Qwen2.5, docs/source/benchmark/speed_benchmark.rst: vLLM 0.6.3"
MUSGRAVE: Final = "johnmusgrave.com/p/vllm-throughput-latency-sweep-on: vLLM 0.23.0"
RAHMAN: Final = "mushfiqrahman.dev/?p=1668: vLLM, its version not told"

PUBLISHED: Final[Mapping[tuple[str, str, str], Mapping[tuple[int, int], Mapping[int, float]]]] = {
    # (source, model, GPU): (prompt, output): output tokens/s by requests in flight
    (QWEN, "qwen2.5-0.5b", "a100-80gb"): {
        (1, 2048): {1: 311.55}, (6144, 2048): {1: 304.79},
        (14336, 2048): {1: 290.28}, (30720, 2048): {1: 264.51},
    },
    (QWEN, "qwen2.5-1.5b", "a100-80gb"): {
        (1, 2048): {1: 183.33}, (6144, 2048): {1: 176.68},
        (14336, 2048): {1: 168.69}, (30720, 2048): {1: 152.04},
    },
    (QWEN, "qwen2.5-3b", "a100-80gb"): {
        (1, 2048): {1: 127.61}, (6144, 2048): {1: 123.15},
        (14336, 2048): {1: 117.35}, (30720, 2048): {1: 105.88},
    },
    (QWEN, "qwen2.5-7b", "a100-80gb"): {
        (1, 2048): {1: 84.28}, (6144, 2048): {1: 80.70},
        (14336, 2048): {1: 77.69}, (30720, 2048): {1: 70.33},
    },
    # Its text: "about 75", and 6.6 times that with eight.
    (MUSGRAVE, "llama-3.1-8b", "a100-40gb"): {(1024, 128): {1: 75.0, 8: 495.0}},
    # It asked for 128 tokens; rates by requests tell that answers had 100.
    (RAHMAN, "mistral-7b", "geforce-rtx-4090-24gb"): {
        (256, 100): {4: 210.0, 8: 377.0, 16: 644.0, 32: 975.0, 48: 1190.0}
    },
}  # fmt: skip
WHOLE: Final = PartitionSize(SharingMode.WHOLE, 1, 100)
_NOT_TOLD: Final = Latency(0.0, 0.0, 0.0, 0.0)


def published_sources() -> Iterator[Source]:
    """Yield a source for each model, GPU and lengths, with nothing but rates in its points."""
    for (_, model, key), by_lengths in PUBLISHED.items():
        architecture, hardware = CATALOG[model].architecture, hardware_for_key(key)
        for (prompt, output), rates in by_lengths.items():
            subject = Subject(model, architecture, hardware, WHOLE, Workload(prompt, output))
            made = estimate_profile(
                subject, prompt + output, profile_id=f"published-{model}", max_batch=max(rates),
                refined=True,
            )  # fmt: skip
            first = made.points[0]
            points = tuple(
                dataclasses.replace(
                    first, batch=batch, output_tokens_per_s=rate, ttft=_NOT_TOLD, tpot=_NOT_TOLD,
                    footprint_bytes=Bytes(0), telemetry=None, joules_per_output_token=None,
                )
                for batch, rate in rates.items()
            )  # fmt: skip
            knee = dataclasses.replace(made.knee, batch=None, largest_batch=max(rates))
            measured = dataclasses.replace(
                made, kind=ProfileKind.MEASURED, points=points, knee=knee
            )
            yield source_of(measured, architecture, hardware)
