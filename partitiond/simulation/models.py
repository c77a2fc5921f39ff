"""Where an engine of a plan gets its step times, KV cache and limits from."""

import dataclasses
import math
from collections.abc import Callable, Mapping

from partitiond.core.admission import admits, estimate_cost
from partitiond.core.architecture import Architecture
from partitiond.core.balance import ReplicaLoad
from partitiond.core.estimate import hardware_of
from partitiond.core.footprint import BLOCK_TOKENS, MAX_NUM_BATCHED_TOKENS, kv_tokens
from partitiond.core.hardware import Device, DeviceKind
from partitiond.core.plan import Candidate, Placement
from partitiond.core.precision import as_loaded
from partitiond.core.profile import Profile, ProfileKind
from partitiond.core.roofline import rates
from partitiond.core.spec import ModelSpec, Slo
from partitiond.core.workload import Workload
from partitiond.simulation.host import NO_COSTS, HostCosts
from partitiond.simulation.steps import Steps, candidate_steps, profile_steps, roofline_steps


@dataclasses.dataclass(frozen=True, slots=True)
class ModelTraffic:
    """What is sent to one model, and what of it counts as good.

    Attributes:
        model: model name.
        workload: lengths of its requests.
        slo: bounds, or None where every request that ends is good.
    """

    model: str
    workload: Workload
    slo: Slo | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class EngineModel:
    """How one engine of a plan behaves.

    Attributes:
        steps: its step times, alone on its device.
        kv_cache_tokens: what its KV cache holds.
        max_model_len: longest context, in tokens.
        max_step_tokens: tokens of one step.
        costs: what the host costs its requests beside the steps.
    """

    steps: Steps
    kv_cache_tokens: int
    max_model_len: int
    max_step_tokens: int = MAX_NUM_BATCHED_TOKENS
    costs: HostCosts = NO_COSTS


EngineOf = Callable[[Placement], EngineModel]


def engine_from_candidate(
    candidate: Candidate,
    workload: Workload,
    kind: DeviceKind = DeviceKind.GPU,
    max_model_len: int | None = None,
) -> EngineModel:
    """An engine made from a candidate's own figures, where nothing else is known of it.

    Args:
        candidate: what it runs as.
        workload: lengths of its requests.
        kind: of its device; decides the size of a KV block.
        max_model_len: longest context; None for the longest request.
    """
    longest = max_model_len or workload.longest_tokens
    return EngineModel(
        candidate_steps(candidate, workload),
        _cache_tokens(candidate.batch, workload, longest, kind),
        longest,
    )


def engine_from_profile(profile: Profile, batch: int, max_model_len: int) -> EngineModel:
    """An engine as a measured profile tells it, with the KV cache of the point at `batch`."""
    kind = DeviceKind.CPU if profile.size.cores and not profile.size.sm_percent else DeviceKind.GPU
    point = profile.point(batch)
    block = BLOCK_TOKENS[kind]
    tokens = (
        -(-point.kv_tokens // block) * block
        if point is not None
        else _cache_tokens(batch, profile.workload, max_model_len, kind)
    )
    return EngineModel(
        profile_steps(profile),
        tokens,
        max_model_len,
        profile.max_num_batched_tokens or MAX_NUM_BATCHED_TOKENS,
    )


def engine_from_roofline(
    spec: ModelSpec, architecture: Architecture, candidate: Candidate, device: Device
) -> EngineModel:
    """An engine by the roofline that its estimate was made with, stepped instead of averaged.

    Args:
        spec: the form of the model that runs (`ModelSpec.as_variant`).
        architecture: of that form, before its precision is applied.
        candidate: what it runs as.
        device: where.
    """
    engine = spec.engine
    loaded = as_loaded(
        architecture,
        dtype=engine.dtype,
        quantization=engine.quantization,
        kv_cache_dtype=engine.kv_cache_dtype,
    )
    reached = rates(
        hardware_of(device), candidate.size, dtype=engine.dtype, quantization=engine.quantization
    )
    return EngineModel(
        roofline_steps(loaded, reached, spec.workload),
        _cache_tokens(candidate.batch, spec.workload, spec.max_model_len, device.kind),
        spec.max_model_len,
        engine.max_num_batched_tokens or MAX_NUM_BATCHED_TOKENS,
    )


def best_known(
    specs: Mapping[str, ModelSpec],
    devices: Mapping[str, Device],
    *,
    profiles: Mapping[str, Profile] | None = None,
    architectures: Callable[[ModelSpec], Architecture | None] | None = None,
) -> EngineOf:
    """For each placement the surest source there is: its profile, a roofline, its own figures.

    Args:
        specs: of all models, by name.
        devices: of the plan, by id.
        profiles: by id; estimated ones are passed over for the roofline they come from.
        architectures: asked for the numbers of a form of a model.
    """

    def engine_of(placement: Placement) -> EngineModel:
        candidate, device = placement.candidate, devices[placement.device_id]
        spec = specs[placement.model].as_variant(candidate.variant)
        profile = (profiles or {}).get(candidate.profile_id)
        if profile is not None and profile.points and profile.kind is not ProfileKind.ESTIMATED:
            return engine_from_profile(profile, candidate.batch, spec.max_model_len)
        architecture = architectures(spec) if architectures is not None else None
        if architecture is not None:
            return engine_from_roofline(spec, architecture, candidate, device)
        return engine_from_candidate(candidate, spec.workload, device.kind, spec.max_model_len)

    return engine_of


def admitted_sequences(behaves: EngineModel, batch: int, workload: Workload) -> int:
    """Requests of mean length that the proxy lets into a replica at once, of its `batch`.

    Fewer than `batch` where it runs out of KV tokens first: an engine's cache is made for what
    requests hold in the mean, while each is admitted with what it may hold at its end.
    """
    moments = workload.moments
    cost = estimate_cost(
        sequences=1,
        prompt_tokens=moments.p,
        max_tokens=math.ceil(moments.o),
        output_p90=math.ceil(moments.o),
        max_model_len=behaves.max_model_len,
    )
    held = 0
    while held < batch and admits(
        ReplicaLoad("", held, batch, held * cost.kv_tokens, behaves.kv_cache_tokens), cost
    ):
        held += 1
    return held


def _cache_tokens(batch: int, workload: Workload, max_model_len: int, kind: DeviceKind) -> int:
    """Whole blocks for the tokens that a batch needs, as engines are started with."""
    block = BLOCK_TOKENS[kind]
    return -(-kv_tokens(batch, workload, max_model_len, block) // block) * block
