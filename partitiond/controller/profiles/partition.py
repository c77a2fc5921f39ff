"""Checks what a profile job asks of a device, before the job waits for the device. Pure.

A wish that no waiting can fulfil is refused at once: a MIG profile that the GPU does not offer, a
share under MPS of a GPU in MIG mode, a whole GPU where there are only slices.
"""

from collections.abc import Sequence

from partitiond.core.errors import InputError, NotFoundError
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.mig.geometry import profiles_of
from partitiond.core.profile.jobs import ProfileOptions
from partitiond.core.units import format_bytes


def device_for(options: ProfileOptions, devices: Sequence[Device]) -> Device:
    """Return the device asked for; else the first GPU that has such partitions, or the CPU.

    Raises:
        NotFoundError: there is no such device.
        InputError: there is no device at all, or none with such partitions.
    """
    if not devices:
        raise InputError(
            "there is no device to profile on.",
            hint="`partitiond doctor` says why; set cpu.enabled to true to use the CPU.",
        )
    if options.device_id is not None:
        return _named(options.device_id, devices)
    gpus = [device for device in devices if device.kind is DeviceKind.GPU]
    wanted = mode_of(options)
    if wanted is None:
        return next(iter(gpus), devices[0])
    able = [device for device in gpus if wanted in device.modes]
    if able or gpus:
        return (able or gpus)[0]
    shown = "a MIG slice" if wanted is SharingMode.MIG else "a share under MPS"
    raise InputError(
        f"there is no GPU, so nothing can be measured in {shown}.",
        hint="Leave --mps and --mig out to measure on the CPU; `partitiond doctor` says why no "
        "GPU is seen.",
    )


def _named(device_id: str, devices: Sequence[Device]) -> Device:
    for device in devices:
        if device.id == device_id:
            return device
    raise NotFoundError(
        f"there is no device {device_id!r}.",
        hint=f"Use one of {', '.join(device.id for device in devices)}.",
        facts={"device": device_id},
    )


def mode_of(options: ProfileOptions) -> SharingMode | None:
    """Return the sharing mode that is asked for by name; None if none is."""
    if options.mig_profile:
        return SharingMode.MIG
    return SharingMode.MPS if options.sm_percent is not None else None


def check_partition(options: ProfileOptions, device: Device) -> None:
    """Refuse what this device never has. Raises InputError."""
    if options.mig_profile and options.sm_percent is not None:
        raise InputError(
            "a MIG slice and an SM percentage do not go together.",
            hint="MPS inside MIG slices is not planned for: use one of them.",
        )
    _check_memory(options, device)
    wanted = mode_of(options)
    if device.kind is DeviceKind.CPU:
        if wanted is not None:
            raise InputError(
                f"{device.short_id} has neither SMs nor MIG slices.",
                hint="Use --cores for a part of it, or name a GPU with --device.",
                facts={"device": device.id},
            )
        return
    if options.sm_percent is not None and not 1 <= options.sm_percent <= 100:
        raise InputError(
            f"{options.sm_percent} % of the SMs is no share.", hint="Give --mps 1 to 100."
        )
    if wanted is SharingMode.MIG:
        _check_mig(options.mig_profile, device)
        _check_slice_memory(options, device)
    elif (wanted or SharingMode.WHOLE) not in device.modes:
        _refuse_mode(wanted, device)


def _check_memory(options: ProfileOptions, device: Device) -> None:
    if options.memory_bytes is not None and options.memory_bytes > device.memory_bytes:
        raise InputError(
            f"{device.short_id} has {format_bytes(device.memory_bytes)} of memory, "
            f"{format_bytes(options.memory_bytes)} were asked for.",
            hint="Ask for less, or leave the memory out for what is free.",
            facts={"device": device.id, "memory_bytes": device.memory_bytes},
        )


def _refuse_mode(wanted: SharingMode | None, device: Device) -> None:
    in_mig = device.modes == (SharingMode.MIG,)
    offered = slices_of(device)
    slices = f"Measure in a slice: --mig {offered[-1]}. " if offered else ""
    raise InputError(
        f"{device.short_id} cannot be used {'under MPS' if wanted else 'as a whole'}: "
        + ("it is in MIG mode." if in_mig else "it does not allow that now."),
        hint=f"{slices}`partitiond devices` shows what it allows.",
        facts={"device": device.id, "modes": [mode.value for mode in device.modes]},
    )


def _check_mig(name: str, device: Device) -> None:
    """Raises InputError: the GPU has no such MIG profile, or may not make an instance of it."""
    offered = slices_of(device)
    if SharingMode.MIG in device.modes and name in offered:
        return
    if SharingMode.MIG not in device.modes:
        capable = bool(profiles_of(device))
        hint = (
            "Turn MIG on (`nvidia-smi -i UUID -mig 1`), or use --mps."
            if capable
            else "It has no MIG: use --mps or --memory."
        )
        raise InputError(f"{device.short_id} offers no MIG slices now.", hint=hint)
    why = " that exist, and its geometry may not be changed" if device.mig_fixed else ""
    raise InputError(
        f"{device.short_id} has no MIG profile {name!r}.",
        hint=f"It offers {', '.join(offered) or 'none'}{why}.",
        facts={"device": device.id, "mig_profile": name, "offered": list(offered)},
    )


def _check_slice_memory(options: ProfileOptions, device: Device) -> None:
    """Raises InputError: more memory than any instance of that MIG profile has."""
    name = options.mig_profile
    there = [i.memory_bytes for i in device.mig_instances if i.mig_profile == name]
    most = max([p.memory_bytes for p in profiles_of(device) if p.name == name] + there)
    if options.memory_bytes is not None and options.memory_bytes > most:
        raise InputError(
            f"a slice of MIG profile {options.mig_profile} has {format_bytes(most)} of memory, "
            f"{format_bytes(options.memory_bytes)} were asked for.",
            hint="Ask for less, leave the memory out for all of the slice, or use a larger one.",
            facts={"device": device.id, "memory_bytes": most},
        )


def slices_of(device: Device) -> tuple[str, ...]:
    """Return the MIG profiles of which the device can have an instance, the smallest first."""
    if device.mig_fixed:
        found = sorted(device.mig_instances, key=lambda instance: instance.memory_bytes)
        return tuple(dict.fromkeys(instance.mig_profile for instance in found))
    return tuple(profile.name for profile in profiles_of(device))
