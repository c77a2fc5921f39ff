"""Derives the step times, KV cache and limits of a plan's engines."""

import dataclasses
from collections.abc import Callable, Mapping

from partitiond.core.dispatch.routing import ReplicaRoute, service_seconds
from partitiond.core.hardware.kinds import Device, DeviceKind
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.spec import ModelSpec
from partitiond.core.model.workload import Workload
from partitiond.core.performance.footprint import BLOCK_TOKENS, MAX_NUM_BATCHED_TOKENS, cache_tokens
from partitiond.core.performance.planned_speed import steps_of
from partitiond.core.plan.record import Candidate, Placement
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.simulated.steps import Steps, fit_steps


@dataclasses.dataclass(frozen=True, slots=True)
class EngineModel:
    """How one engine of a plan behaves.

    Attributes:
        steps: its step times, alone on its device.
        kv_cache_tokens: tokens that its KV cache holds.
        max_model_len: longest context, in tokens.
        max_step_tokens: most tokens of one step.
    """

    steps: Steps
    kv_cache_tokens: int
    max_model_len: int
    max_step_tokens: int = MAX_NUM_BATCHED_TOKENS


EngineOf = Callable[[Placement], EngineModel]


def engine_from_profile(profile: Profile, batch: int, max_model_len: int) -> EngineModel:
    """Return an engine as measured by a profile, with the KV cache of the point at `batch`."""
    kind = DeviceKind.CPU if profile.size.cores and not profile.size.sm_percent else DeviceKind.GPU
    point = profile.point(batch)
    block = BLOCK_TOKENS[kind]
    tokens = (
        -(-point.kv_tokens // block) * block
        if point is not None
        else cache_tokens(batch, profile.workload, max_model_len, kind)
    )
    return EngineModel(
        fit_steps(profile),
        tokens,
        max_model_len,
        profile.max_num_batched_tokens or MAX_NUM_BATCHED_TOKENS,
    )


def engine_from_roofline(
    spec: ModelSpec, architecture: Architecture, candidate: Candidate, device: Device
) -> EngineModel:
    """Return an engine that steps by the roofline of its estimate, instead of using its average.

    Args:
        spec: the form of the model that runs (`ModelSpec.as_variant`).
        architecture: architecture of that form, before its precision is applied.
        candidate: the candidate that the engine runs.
        device: device of the engine.
    """
    dtype = candidate.dtype or spec.engine.dtype
    return EngineModel(
        steps_of(spec, architecture, device, candidate.size, dtype),
        cache_tokens(candidate.batch, spec.workload, spec.max_model_len, device.kind),
        spec.max_model_len,
        spec.engine.max_num_batched_tokens or MAX_NUM_BATCHED_TOKENS,
    )


def best_known(
    specs: Mapping[str, ModelSpec],
    devices: Mapping[str, Device],
    architectures: Mapping[tuple[str, str], Architecture],
    profiles: Mapping[str, Profile] | None = None,
) -> EngineOf:
    """Return a function that uses each placement's best source: its profile, or the roofline.

    Args:
        specs: recognised, of all models, by name.
        devices: devices of the plan, by id.
        architectures: of each form, by model and variant; needed without a profile.
        profiles: profiles by id; estimated ones are replaced by the roofline they come from.
    """

    def engine_of(placement: Placement) -> EngineModel:
        candidate, device = placement.candidate, devices[placement.device_id]
        spec = specs[placement.model].as_variant(candidate.variant)
        profile = (profiles or {}).get(candidate.profile_id)
        if profile is not None and profile.points and profile.kind is not ProfileKind.ESTIMATED:
            return engine_from_profile(profile, candidate.batch, spec.max_model_len)
        architecture = architectures[placement.model, candidate.variant]
        return engine_from_roofline(spec, architecture, candidate, device)

    return engine_of


def route_of(placement: Placement, behaves: EngineModel, workload: Workload) -> ReplicaRoute:
    """Return the replica's route as the daemon would send it to the proxy."""
    candidate = placement.candidate
    return ReplicaRoute(
        replica_id=placement.replica_id,
        model=placement.model,
        socket_path="",
        generation="",
        max_sequences=candidate.batch,
        kv_cache_tokens=behaves.kv_cache_tokens,
        max_model_len=behaves.max_model_len,
        service_seconds=service_seconds(
            candidate.ttft_p95_seconds, candidate.tpot_p95_seconds, workload.output_tokens
        ),
    )
