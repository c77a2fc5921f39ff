"""Runs step 1: facts of this machine, and what MPS does here."""

import dataclasses
from typing import Final

from bench.gpu_check import mps
from bench.gpu_check.lab import Lab
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import Trial
from bench.gpu_check.steps import Outcome
from partitiond.core.units import MIB
from partitiond.devices.telemetry import HostTelemetry

PROBED: Final = ((100, 0), (50, 4096 * MIB))
"""SM percentage and memory limit in bytes (0: none) of the clients that show whether MPS works."""


@dataclasses.dataclass(frozen=True)
class Discovery:
    """Facts of the machine, and proof that MPS works on it."""

    number: int = 1
    title: str = "Discovery"

    def trials(self, _scale: Scale, /) -> tuple[Trial, ...]:
        return (
            Trial("1.facts", other_seconds=2.0),
            Trial("1.mps", other_seconds=5.0),
        )

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        return await (_facts if trial.id == "1.facts" else _probed)(lab)


async def _facts(lab: Lab) -> Outcome:
    device = lab.device
    source = lab.tools.telemetry
    told = await source.exposure(device) if isinstance(source, HostTelemetry) else None
    allowed = lab.tools.mps_program
    facts = {
        "GPU": device.name,
        "hardware": device.hardware,
        "memory MiB": device.memory_bytes // MIB,
        "free MiB": device.free_bytes // MIB,
        "SMs": device.sm_count,
        "driver": device.driver,
        "sharing modes": ", ".join(device.modes),
        "MPS": f"not possible: {allowed}" if isinstance(allowed, str) else "may be tried",
        "telemetry": told.text() if told is not None else "not asked",
        "cores for engines": len(lab.engine_cores),
        "cores for load": len(lab.load_cores),
        "engine": lab.ledger.subject.engine,
    }
    return Outcome({"rows": [{"fact": name, "value": value} for name, value in facts.items()]})


async def _probed(lab: Lab) -> Outcome:
    """What clients of an MPS daemon see: fewer SMs, and the memory limit as their whole device."""
    rows = []
    async with lab.mps() as daemon:
        for percent, limit in PROBED:
            seen = await mps.probe(daemon.client_env(percent, limit), lab.tools.cuda_library)
            rows.append(
                {
                    "SM % asked": percent,
                    "SMs seen": seen.sm_count,
                    "SMs of the GPU": lab.device.sm_count,
                    "memory limit MiB": limit // MIB or None,
                    "memory seen MiB": seen.total_bytes // MIB,
                }
            )
    return Outcome({"rows": rows})
