"""Runs step 1: facts of this machine, and what MPS does here."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bench.gpu_check import mps
from bench.gpu_check.lab import Lab
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import Trial
from bench.gpu_check.steps import Outcome
from bench.gpu_check.steps.differs import PROBED, differs
from partitiond.core.units import MIB
from partitiond.devices.telemetry import HostTelemetry


@dataclasses.dataclass(frozen=True)
class Discovery:
    """Facts of the machine, and proof that MPS works on it."""

    number: int = 1
    title: str = "Discovery"

    def trials(self, _scale: Scale, /) -> tuple[Trial, ...]:
        return (
            Trial("1.facts", other_seconds=2.0),
            Trial("1.mps", other_seconds=5.0),
            Trial("1.differs", ("1.facts",), other_seconds=15.0),
        )

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        runs = {"1.facts": _facts, "1.mps": _probed, "1.differs": differs}
        return await runs[trial.id](lab)


async def _facts(lab: Lab) -> Outcome:
    device = lab.device
    source = lab.tools.telemetry
    told = await source.exposure(device) if isinstance(source, HostTelemetry) else None
    allowed = lab.tools.mps_program
    facts = {
        "device": device.name,
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
    """What clients of an MPS daemon see: fewer SMs, and the memory limit as their whole device.

    Raises:
        MpsUnavailableError: there is no MPS.
        DeviceError: a client did not come up.
    """
    rows = []
    async with lab.mps() as daemon:
        for percent, limit in PROBED:
            env = daemon.client_env(percent, limit)
            seen = await mps.probe(lab.device.id, env, lab.tools.cuda_library)
            rows.append(
                {
                    "SM % asked": percent,
                    "SMs seen": seen.sm_count,
                    "SMs of the GPU": lab.device.sm_count,
                    "memory limit MiB": limit // MIB or None,
                    "memory seen MiB": seen.total_bytes // MIB,
                }
            )
    told = {"SMs": uncapped(rows), "memory": unlimited(rows)}
    return Outcome({"rows": rows, "notes": list(filter(None, told.values())), "uncapped": told})


def uncapped(rows: Sequence[Mapping[str, Any]]) -> str:
    """The SMs that a client saw beyond its share; empty if every share holds. Pure."""
    for row in rows:
        # A percentage is rounded to what the GPU can give: pairs of SMs.
        allowed = row["SMs of the GPU"] * row["SM % asked"] / 100 + 2
        if row["SMs seen"] > allowed:
            return f"a client of {row['SM % asked']} % saw {row['SMs seen']} SMs"
    return ""


def unlimited(rows: Sequence[Mapping[str, Any]]) -> str:
    """The memory that a client saw beyond its limit; empty if every limit holds. Pure."""
    for row in rows:
        limit = row["memory limit MiB"]
        if limit and row["memory seen MiB"] > limit:
            return f"a client limited to {limit} MiB saw {row['memory seen MiB']} MiB"
    return ""
