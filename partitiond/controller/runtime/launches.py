"""Turns a placement into the launch of its engine. Pure."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from partitiond.core.hardware.hosts import on_each_host
from partitiond.core.hardware.kinds import Device, DeviceKind
from partitiond.core.hardware.partition import CpuCores, MpsShare
from partitiond.core.model.recognised import started
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import EngineOptions, ModelSpec
from partitiond.core.performance.footprint import MAX_NUM_BATCHED_TOKENS
from partitiond.core.performance.planned_speed import speed_environment
from partitiond.core.plan.record import Candidate, Placement
from partitiond.core.replica.engine import EngineLaunch

MAX_NAMES: Final = 1000
"""More engines than this of one replica at a time would be a defect, not a plan."""


def engine_name(replica_id: str, taken: Collection[str]) -> str:
    """Return the replica's id, with a suffix if an engine of that name exists already.

    A replica that moves to free room has two engines for a while; the newer one is called
    `opt-125m-1.2`, and keeps that name. A replica id ends in a dash and a number, so names stay
    unique.
    """
    if replica_id not in taken:
        return replica_id
    return next(name for n in range(2, MAX_NAMES) if (name := f"{replica_id}.{n}") not in taken)


def max_num_batched_tokens(batch: int, engine: EngineOptions | None = None) -> int:
    """Return the tokens of one engine step: the user's choice, else as profiles are made with.

    A step must hold at least one token of each running sequence.
    """
    chosen = engine.max_num_batched_tokens if engine is not None else None
    return max(chosen or MAX_NUM_BATCHED_TOKENS, batch)


def lists_form(spec: ModelSpec, placement: Placement) -> bool:
    """Whether the model still lists the form that a placement runs."""
    variant = placement.candidate.variant
    return not variant or any(v.name == variant for v in spec.variants)


def form_of(spec: ModelSpec, placement: Placement) -> ModelSpec:
    """Return the form of a model that a placement runs: the model itself, or a variant.

    A variant that is no longer listed cannot be started; its running replicas stay until a plan
    without them is applied.

    Raises:
        SpecError: the model does not list the placement's variant.
    """
    return spec.as_variant(placement.candidate.variant)


def cores_for(
    placement: Placement,
    device: Device,
    others: Sequence[EngineLaunch],
    lent: Collection[int] = (),
) -> tuple[int, ...]:
    """Return the host cores for the engine's processes.

    On the CPU device the cores are the partition. On a GPU the engine gets as many cores as the
    candidate was profiled with, the least used ones of the device. If NUMA nodes are known and
    large enough, the cores are of the node whose cores are used least. No core is shared while
    enough are free, even if that takes cores of two nodes: sharing costs more than distance does.

    Args:
        placement: from the plan.
        device: the device the placement is on.
        others: launches of the engines that run now on the device's host.
        lent: cores of that host that profile jobs have.
    """
    if isinstance(placement.partition, CpuCores):
        return placement.partition.cores
    uses = Counter([*lent, *(core for launch in others for core in launch.cores)])
    wanted = max(1, placement.candidate.size.cores)

    def least_used(cores: Sequence[int]) -> list[int]:
        return sorted(cores, key=lambda core: (uses[core], core))[:wanted]

    nodes = [node for node in device.core_nodes if len(node) >= wanted]
    choices = [*(least_used(node) for node in nodes), least_used(device.cores)]
    return tuple(sorted(min(choices, key=lambda cores: sorted(uses[core] for core in cores)[::-1])))


def on_same_host(
    device: Device, devices: Sequence[Device], launches: Iterable[EngineLaunch]
) -> tuple[EngineLaunch, ...]:
    """Return the launches whose engines use host cores of this device's host, or may do so."""
    there = on_each_host([device, *devices], launches, lambda launch: launch.device_id)
    return tuple(there[device.host])


def _dtype(candidate: Candidate, asked: str) -> str:
    """Return the engine's dtype: as asked for, or the one that the plan's figures are for."""
    return (candidate.dtype or asked) if asked == "auto" else asked


def _extra_env(
    placement: Placement, model: ResolvedModel, device: Device
) -> tuple[tuple[str, str], ...]:
    found, candidate = [], placement.candidate
    if isinstance(placement.partition, MpsShare):
        share = str(placement.partition.sm_percent)
        found.append(("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", share))
    speed = speed_environment(
        model.spec,
        model.architecture,
        device=device,
        size=candidate.size,
        dtype=_dtype(candidate, model.spec.engine.dtype),
        busy=candidate.busy,
        kappa=candidate.kappa,
    )
    return (*found, *speed)


def launch_for(
    placement: Placement,
    model: ResolvedModel,
    device: Device,
    *,
    name: str,
    others: Sequence[EngineLaunch] = (),
    lent: Collection[int] = (),
) -> EngineLaunch:
    """Return what the engine of a placement is started with.

    Args:
        placement: from the plan.
        model: files and spec of the form that the placement runs (`form_of`).
        device: the device the placement is on.
        name: unique among running engines.
        others: launches of the engines that run now on the device's host, for the choice of host
            cores on a GPU.
        lent: cores of that host that profile jobs have, for the same.
    """
    spec, candidate = model.spec, placement.candidate
    return EngineLaunch(
        replica_id=name,
        model_name=spec.name,
        model_folder=str(model.folder),
        placement=placement,
        device_id=device.id,
        visible_device=device.id if device.kind is DeviceKind.GPU else "",
        cores=cores_for(placement, device, others, lent),
        memory_bytes=placement.partition.memory_bytes,
        device_memory_bytes=device.memory_bytes,
        kv_cache_bytes=candidate.kv_cache_bytes,
        max_num_seqs=candidate.batch,
        max_num_batched_tokens=max_num_batched_tokens(candidate.batch, spec.engine),
        max_model_len=started(spec, model.architecture).max_model_len,
        dtype=_dtype(candidate, spec.engine.dtype),
        dummy_weights=model.dummy_weights,
        extra_args=(*model.parser_flags, *spec.engine.extra_args),
        engine_kind=spec.engine_kind,
        extra_env=_extra_env(placement, model, device),
        quantization=spec.engine.quantization,
        kv_cache_dtype=spec.engine.kv_cache_dtype,
        sleep_mode=spec.engine.sleep_mode,
        partition=placement.partition,
        isolation_group=spec.isolation_group,
        host=device.host,
    )
