"""Corrects figures of profiles whose replicas were slower (`core.drift.detection`), and reports
it."""

import dataclasses
from collections.abc import Iterator, Sequence

from partitiond.core.plan.record import Candidate, Placement


def corrected(candidate: Candidate, factor: float) -> Candidate:
    """Return the candidate with its rates multiplied, and its latencies divided, by a factor."""
    if factor == 1.0:
        return candidate
    return dataclasses.replace(
        candidate,
        capacity_req_per_s=candidate.capacity_req_per_s * factor,
        output_tokens_per_s=candidate.output_tokens_per_s * factor,
        ttft_p95_seconds=candidate.ttft_p95_seconds / factor,
        tpot_p95_seconds=candidate.tpot_p95_seconds / factor,
        correction=factor,
    )


def corrections_told(placements: Sequence[Placement]) -> Iterator[str]:
    """Yield the models whose figures differ from those of their profiles."""
    factors = {(p.model, p.candidate.correction) for p in placements}
    for model, factor in sorted(factors):
        if factor != 1.0:
            yield (
                f"{model}: its replicas were slower than its profile, so its rates are planned "
                f"times {factor:.2f} (`partitiond models drift`) until it is measured again."
            )
