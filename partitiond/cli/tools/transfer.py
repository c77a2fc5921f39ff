"""Implements `partitiond tools transfer`: predicts a profile from those of other partitions."""

import dataclasses
import datetime
from pathlib import Path

import typer

from partitiond import __version__
from partitiond.cli.models.configs import architecture_for
from partitiond.cli.options import JsonOption, client_of, memory_bytes, option, settings_of, spread
from partitiond.cli.output import emit, say
from partitiond.cli.profile.kept import found_profiles
from partitiond.cli.tools import estimate_options as asked
from partitiond.cli.tools.estimate_view import transfer_table
from partitiond.core.errors import InputError, ProfileError, SpecError
from partitiond.core.hardware.cpus import measured_cpu
from partitiond.core.hardware.kinds import DeviceKind, HardwareSpec, SharingMode
from partitiond.core.hardware.lookup import find_hardware, hardware_for_key
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.precision import dtype_on
from partitiond.core.model.workload import Workload
from partitiond.core.performance.transfer import Target, transfer_profile
from partitiond.core.performance.transfer_fit import Source, source_of
from partitiond.core.profile.record import Profile
from partitiond.devices.bandwidth import cpu_figures
from partitiond.devices.cpu import discover_cpu
from partitiond.serde import to_json


@dataclasses.dataclass(frozen=True, slots=True)
class _Wanted:
    """The options that ask for a difference from the first profile."""

    model: str | None
    hardware: str | None
    cores: int | None
    sm_percent: int | None
    prompt_tokens: int | None
    output_tokens: int | None
    memory: str | None


@spread
def transfer(
    ctx: typer.Context,
    profiles: asked.ProfilesArgument,
    *,
    hardware: asked.HardwareOption = None,
    cores: asked.CoresOption = None,
    sm_percent: asked.SmOption = None,
    model: str | None = option("Another model, as `tools estimate` takes it.", metavar="MODEL"),
    prompt_tokens: int | None = option("Another mean prompt."),
    output_tokens: int | None = option("Another mean output."),
    memory: str | None = option("Of the partition, as 6GiB.", metavar="SIZE"),
    source_config: Path | None = option(
        "config.json of the measured model, where the catalog does not know it.", metavar="FILE"
    ),
    output: Path | None = option("Write the profile here.", "--output", "-o", metavar="FILE"),
    keep: bool = option("Give it to the daemon, for plans.", "--import"),
    as_json: JsonOption = False,
) -> None:
    """Predict a profile from measured ones.

    Give one measured profile, or several of different cores, models or lengths: then each is also
    predicted from the others, and the error found makes the error band.
    """
    measured = found_profiles(ctx, profiles)
    twice = [one.id for i, one in enumerate(measured) if one.id in {p.id for p in measured[:i]}]
    if twice:
        # A profile predicted from itself has no error: the error band would be too narrow.
        raise InputError(f"the profile {twice[0]} is given twice.", hint="Give each once.")
    wanted = _Wanted(model, hardware, cores, sm_percent, prompt_tokens, output_tokens, memory)
    sources = [_source(ctx, profile, source_config) for profile in measured]
    target = _target(ctx, sources, wanted)
    now = datetime.datetime.now(datetime.UTC)
    predicted = transfer_profile(
        sources,
        target,
        profile_id=_id_of(target, now),
        created_at=now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        partitiond_version=__version__,
    )
    if output is not None:
        _write(predicted, output)
    if keep:
        with client_of(ctx) as client:
            say(f"Profile {client.import_profile(predicted).id} is kept.")

    emit(predicted, as_json=as_json, render=lambda: transfer_table(predicted, measured))


def _source(ctx: typer.Context, profile: Profile, config: Path | None) -> Source:
    try:
        _, architecture = architecture_for(str(config) if config else profile.model)
    except SpecError as error:
        if config is not None:
            raise
        raise SpecError(
            f"the architecture of {profile.model} is not known.",
            hint="Give its config.json with --source-config.",
        ) from error
    return source_of(profile, architecture, _hardware_behind(ctx, profile.hardware))


def _hardware_behind(ctx: typer.Context, key: str) -> HardwareSpec:
    """Return the catalog's hardware; this host's CPU as measured, another CPU as assumed."""
    if key.startswith("cpu-"):
        settings = settings_of(ctx)
        device = discover_cpu(settings.cpu.cores)
        if device.hardware == key:
            figures = cpu_figures(device, settings.state_dir)
            return measured_cpu(key, device.memory_bytes, figures)
    return hardware_for_key(key)


def _target(ctx: typer.Context, sources: list[Source], wanted: _Wanted) -> Target:
    first = sources[0].subject
    name, architecture = first.model, first.architecture
    if wanted.model is not None:
        name, architecture = architecture_for(wanted.model)
    spec, size = _partition(ctx, sources[0], wanted)
    workload = _workload(first.workload, wanted)
    memory = memory_bytes(wanted.memory)
    if workload.longest_tokens > architecture.max_position:
        raise SpecError(
            f"{name} was built for {architecture.max_position} tokens of context, "
            f"this needs {workload.longest_tokens}.",
            hint="Lower the prompt or output tokens.",
        )
    subject = dataclasses.replace(
        first,
        model=name,
        architecture=architecture,
        hardware=spec,
        size=size,
        workload=workload,
        # A bfloat16 model runs in float16 if the hardware has no other 16-bit type.
        dtype=dtype_on(spec, "auto") if first.dtype in {"bfloat16", "auto"} else first.dtype,
    )
    return Target(subject, _context_tokens(workload, architecture.max_position), memory)


def _context_tokens(workload: Workload, max_position: int) -> int:
    """The context that registration sets: 1.25 times the longest request, if the model has it."""
    wanted = max(256, -(-workload.longest_tokens * 5 // 4))
    return max(workload.longest_tokens, min(wanted, max_position))


def _workload(measured: Workload, wanted: _Wanted) -> Workload:
    if wanted.prompt_tokens is None and wanted.output_tokens is None:
        return measured
    return Workload(
        measured.prompt_tokens if wanted.prompt_tokens is None else wanted.prompt_tokens,
        measured.output_tokens if wanted.output_tokens is None else wanted.output_tokens,
    )


def _partition(
    ctx: typer.Context, source: Source, wanted: _Wanted
) -> tuple[HardwareSpec, PartitionSize]:
    """Return the wanted hardware and partition; those of the first profile by default."""
    spec, size = source.subject.hardware, source.profile.size
    if wanted.hardware is not None and wanted.hardware.lower() == "cpu":
        device = discover_cpu(settings_of(ctx).cpu.cores)
        spec = _hardware_behind(ctx, device.hardware)
    elif wanted.hardware is not None:
        spec, mig = find_hardware(wanted.hardware)
        if mig is not None:
            size = PartitionSize(SharingMode.MIG, 1, 100, mig.name)
        elif size.mode is SharingMode.MIG:
            size = PartitionSize(SharingMode.WHOLE, 1, 100)
    if wanted.cores is not None:
        if spec.kind is not DeviceKind.CPU:
            raise InputError("--cores is for a CPU device.", hint="Use --sm-percent on a GPU.")
        if wanted.cores > spec.cores:
            raise SpecError(
                f"{spec.key} has {spec.cores} cores, {wanted.cores} were asked for.",
                hint=f"Ask for 1 to {spec.cores}.",
            )
        size = PartitionSize(SharingMode.CORES, wanted.cores)
    if wanted.sm_percent is not None:
        if spec.kind is not DeviceKind.GPU:
            raise InputError("--sm-percent is for a GPU.", hint="Use --cores on a CPU.")
        size = PartitionSize(SharingMode.MPS, 1, wanted.sm_percent)
    return spec, size


def _id_of(target: Target, now: datetime.datetime) -> str:
    subject = target.subject
    lengths = f"{subject.workload.prompt_tokens}-{subject.workload.output_tokens}"
    return (
        f"{subject.model}-{subject.hardware.key}-{subject.size.key}-{lengths}"
        f"-transferred-{now:%Y%m%d%H%M%S}"
    )


def _write(profile: Profile, path: Path) -> None:
    try:
        path.write_text(to_json(profile, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ProfileError(
            f"{path} cannot be written: {error.strerror}.", hint="Choose another file."
        ) from error
    say(f"Profile written to {path}")
