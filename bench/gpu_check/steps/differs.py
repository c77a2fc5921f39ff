"""Compares what this GPU's driver answers with what a simulated host of the same kind answers.

Each difference is a defect of the simulated host, on which all tests of GPUs rest.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bench.gpu_check import mps
from bench.gpu_check.lab import Lab
from bench.gpu_check.schedule import ImpossibleError
from bench.gpu_check.steps import Outcome
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.units import MIB
from partitiond.devices.host import HostDevices
from partitiond.devices.telemetry import HostTelemetry
from partitiond.serde import to_jsonable

PROBED: Final = ((100, 0), (50, 4096 * MIB))
"""SM percentage and memory limit in bytes (0: none) of the clients that show whether MPS works."""
NVML: Final = (
    "memory_bytes", "reserved_bytes", "sm_count", "modes", "max_replicas", "idle_watts",
    "max_watts", "mig_fixed", "health",
)  # fmt: skip
"""Fields of a device that its driver decides."""


async def differs(lab: Lab) -> Outcome:
    """The differences as a table. Raises ImpossibleError: no simulated host can be made here."""
    if lab.device.kind is not DeviceKind.GPU:
        raise ImpossibleError("a CPU is not simulated")
    here = await answers(lab.device, lab.tools.mps_program, lab.tools.cuda_library)
    try:
        # Simulated hosts need packages that vLLM's environment lacks.
        from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
    except ImportError as error:
        raise ImpossibleError(f"no simulated host can be made here: {error}") from error
    mig = SharingMode.MPS not in lab.device.modes
    gpu = GpuDescription(lab.device.hardware, mig=mig)
    with tempfile.TemporaryDirectory(prefix="pd-check-like-") as folder:
        host = SimulatedHost.create(HostDescription("gpu-check-like", (gpu,)), Path(folder))
        with host.installed():
            like = next(d for d in HostDevices().discover() if d.kind is DeviceKind.GPU)
            there = await answers(like, host.mps_control, host.cuda_path)
    rows = differences(here, there)
    said = f"{len(here)} answers were compared, {len(rows)} differ from the simulated host's."
    return Outcome({"rows": rows, "notes": [said]})


async def answers(device: Device, program: Path | str, library: Path | None) -> dict[str, Any]:
    """What NVML, MIG, the telemetry and MPS answer, each by its name."""
    told = {f"NVML {name}": to_jsonable(getattr(device, name)) for name in NVML}
    told |= {f"MIG profile {profile.name}": to_jsonable(profile) for profile in device.mig_profiles}
    shown = await HostTelemetry().exposure(device)
    told["telemetry"] = sorted(shown.exposes)
    if isinstance(program, str):
        return told | {"MPS": program}
    async with mps.mps(str(program), device.id) as daemon:
        for percent, limit in PROBED:
            seen = await mps.probe(device.id, daemon.client_env(percent, limit), library)
            what = f"MPS client of {percent} %, limit {limit // MIB} MiB"
            told |= {f"{what}: SMs": seen.sm_count, f"{what}: bytes": seen.total_bytes}
    return told


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each answer that differs, or that one side alone gives. Pure."""
    return [
        {"answer": name, "this GPU": str(here.get(name)), "simulated host": str(there.get(name))}
        for name in dict.fromkeys((*here, *there))
        if here.get(name) != there.get(name)
    ]
