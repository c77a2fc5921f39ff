"""Stores the parameters of a profile job as text, and reads them back."""

import dataclasses
from collections.abc import Sequence

from partitiond.controller.profiles.job_room import ONLY_THERE
from partitiond.controller.profiles.partition import check_partition, device_for
from partitiond.core.errors import InputError
from partitiond.core.hardware.kinds import Device, DeviceKind
from partitiond.core.hardware.partition import Partition
from partitiond.core.model.precision import engine_dtype
from partitiond.core.model.recognised import check_lengths
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import ModelSpec
from partitiond.core.model.workload import Workload
from partitiond.core.performance.estimate import hardware_of
from partitiond.core.profile.jobs import ProfileOptions
from partitiond.ports import ProfileRequest
from partitiond.serde import from_stored_json, to_json

Params = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ProfilingOptions:
    """Defaults of a profile job, from the settings.

    Attributes:
        jobs_at_once: how many jobs may run on one device at the same time.
        jobs_on_host: how many on all devices of one host together.
    """

    max_batch: int = 512
    time_limit_seconds: float = 900.0
    min_window_seconds: float = 10.0
    max_window_seconds: float = 60.0
    cpu_partition_cores: tuple[int, ...] = ()
    jobs_at_once: int = 1
    jobs_on_host: int = 4


def params_of(
    options: ProfileOptions, devices: Sequence[Device], defaults: ProfilingOptions
) -> Params:
    """Return what a job is stored with: every choice is made, so that it can be read and repeated.

    Without a device, the first GPU is named, or the CPU if there is no GPU. Any device of the same
    hardware will do, unless a device was asked for and there are others like it. Without a number
    of cores, it is the smallest size that the settings name, or all cores if they name none. What
    was not asked for and has no default of its own is left out.

    Raises:
        NotFoundError: there is no such device.
        InputError: the device has too few cores, too little memory or no such partitions, or there
            is no device at all.
    """
    device = device_for(options, devices)
    check_partition(options, device)
    cores = options.cores
    if cores is None:
        cores = min((*defaults.cpu_partition_cores, len(device.cores)))
    if not 1 <= cores <= len(device.cores):
        raise InputError(
            f"{device.short_id} has {len(device.cores)} cores for engines, {cores} were asked for.",
            hint=f"Ask for 1 to {len(device.cores)} cores.",
            facts={"device": device.id, "cores": list(device.cores)},
        )
    params = {
        "device_id": device.id,
        "max_batch": str(options.max_batch or defaults.max_batch),
        "time_limit_seconds": str(options.time_limit_seconds or defaults.time_limit_seconds),
        "seed": str(options.seed),
    }
    if device.kind is DeviceKind.CPU:
        params["cores"] = str(cores)
    if options.device_id is not None and not options.any_like_it:
        others = (d for d in devices if d.id != device.id and d.hardware == device.hardware)
        params |= {ONLY_THERE: "yes"} if any(others) else {}
    return tuple(sorted((params | _axes(options)).items()))


def _axes(options: ProfileOptions) -> dict[str, str]:
    """Return the parameters that differ from the model's own, or from the usual ones."""
    workload = options.workload
    given = {
        "memory_bytes": options.memory_bytes,
        "sm_percent": options.sm_percent,
        "mig_profile": options.mig_profile or None,
        "variant": options.variant or None,
        "workload": None if workload is None else to_json(workload),
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "kv_cache_dtype": options.kv_cache_dtype,
        "confirm": None if options.confirm else "no",
        "paper_requests": options.paper_requests or None,
    }
    return {name: str(value) for name, value in given.items() if value is not None}


def options_of(params: Params) -> ProfileOptions:
    """Return the options that `params_of` stored, with every default filled in.

    Raises:
        InputError: a former release queued it to constrain answers, which would not be measured.
    """
    found = dict(params)
    if "structured_output" in found:
        raise InputError(
            "constrained answers are not measured any more.", hint="Profile without them."
        )

    def whole(name: str) -> int | None:
        return int(found[name]) if name in found else None

    return ProfileOptions(
        device_id=found["device_id"],
        any_like_it=ONLY_THERE not in found,
        cores=whole("cores"),
        max_batch=whole("max_batch"),
        time_limit_seconds=float(found["time_limit_seconds"]),
        memory_bytes=whole("memory_bytes"),
        seed=int(found["seed"]),
        variant=found.get("variant", ""),
        workload=from_stored_json(Workload, found["workload"]) if "workload" in found else None,
        max_num_batched_tokens=whole("max_num_batched_tokens"),
        kv_cache_dtype=found.get("kv_cache_dtype"),
        confirm="confirm" not in found,
        paper_requests=whole("paper_requests") or 0,
        sm_percent=whole("sm_percent"),
        mig_profile=found.get("mig_profile", ""),
    )


def measured_spec(spec: ModelSpec, options: ProfileOptions) -> ModelSpec:
    """Return the model in the form and with the lengths that are to be measured.

    Raises:
        SpecError: the model lists no such variant, or its context is too short for the lengths.
    """
    form = spec.as_variant(options.variant)
    engine = dataclasses.replace(
        form.engine,
        max_num_batched_tokens=options.max_num_batched_tokens or form.engine.max_num_batched_tokens,
        kv_cache_dtype=options.kv_cache_dtype or form.engine.kv_cache_dtype,
    )
    measured = dataclasses.replace(form, engine=engine, workload=options.workload or form.workload)
    check_lengths(measured)
    return measured


def profile_request(
    model: ResolvedModel,
    device: Device,
    options: ProfileOptions,
    defaults: ProfilingOptions,
    *,
    cores: tuple[int, ...],
    memory_bytes: int,
    partition: Partition | None = None,
) -> ProfileRequest:
    """Return what the profiler is asked, with the defaults for what was not given.

    Args:
        model: files of the form that `measured_spec` gave, and that spec.
        device: where to measure.
        options: what was asked for.
        defaults: from the settings.
        cores, memory_bytes: of the partition.
        partition: what was lent; None for all of the device, as it is.
    """
    spec = model.spec
    dtype = engine_dtype(
        hardware_of(device), spec.engine.dtype, model.architecture, spec.engine.quantization
    )
    engine = dataclasses.replace(spec.engine, dtype=dtype)
    model = dataclasses.replace(model, spec=dataclasses.replace(spec, engine=engine))
    return ProfileRequest(
        model=model,
        device=device,
        cores=cores,
        memory_bytes=memory_bytes,
        max_batch=options.max_batch or defaults.max_batch,
        time_limit_seconds=options.time_limit_seconds or defaults.time_limit_seconds,
        seed=options.seed,
        min_window_seconds=defaults.min_window_seconds,
        max_window_seconds=defaults.max_window_seconds,
        variant=options.variant,
        confirm_memory=options.confirm,
        confirm_capacity=options.confirm,
        paper_requests=options.paper_requests,
        partition=partition,
    )
