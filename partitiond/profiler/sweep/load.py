"""Makes the profiler's load with the workload's own lengths, so that plans rest on measurements."""

from collections.abc import Mapping
from typing import Final

from loadgen import Endpoint
from loadgen import Workload as Load
from loadgen.load.lengths import Lengths, choice, independent
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.engine_task import ROUTES
from partitiond.core.model.workload import LengthShape, Workload
from partitiond.ports import ProfileRequest

LAST_TOKEN_ID: Final = 20_000
"""Largest token id in a prompt, unless the vocabulary is smaller."""

ENDPOINTS: Final = {f"/{endpoint.path}": endpoint for endpoint in Endpoint}
"""By path. What `/v1/embeddings` and `/rerank` ask of an engine is the step of `/pooling`."""

SEEDS_APART: Final = 100_003
"""Distance between the seeds of two phases. Phases with the same prompts on one engine with prefix
caching would measure its cache."""


def load_of(request: ProfileRequest, architecture: Architecture, phase: int = 0) -> Load:
    """Return the load of one phase of a profile.

    Args:
        request: model, workload, seed.
        architecture: its vocabulary bounds the token ids.
        phase: 0 for the sweep, 1 for the confirming start, more for capacity and paper mode.
    """
    spec = request.model.spec
    endpoint = ENDPOINTS[ROUTES[spec.engine.task]]
    extra: Mapping[str, object] = {}
    if endpoint is Endpoint.POOLING:
        extra = {"encoding_format": "base64"}  # as clients of OpenAI's library ask
    return Load(
        model=spec.name,
        prompt_tokens=spec.workload.prompt_tokens,
        output_tokens=spec.workload.output_tokens,
        last_token_id=min(LAST_TOKEN_ID, architecture.vocab_size - 1),
        seed=request.seed + phase * SEEDS_APART,
        lengths=lengths_of(spec.workload),
        extra=extra,
        endpoint=endpoint,
    )


def lengths_of(workload: Workload) -> Lengths | None:
    """Return the same lists that memory and time are predicted with; None for fixed lengths."""
    match workload.shape:
        case LengthShape.TRACE:
            return choice(workload.pairs)
        case LengthShape.LOGNORMAL:
            return independent(workload.prompt_lengths, workload.output_lengths)
        case _:
            return None
