"""Runs step 1: facts of this machine, what MPS does here, the memory terms of one engine."""

import asyncio
import dataclasses
from pathlib import Path
from typing import Any, Final

from bench.gpu_check import mps
from bench.gpu_check.lab import Lab, Running, Want
from bench.gpu_check.runner import Changes
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import Trial
from bench.gpu_check.steps import Outcome, startup_log
from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.performance.footprint import EngineLimits, footprint
from partitiond.core.units import MIB
from partitiond.devices.telemetry import HostTelemetry

SMALLEST: Final = "opt-125m"
PROBED: Final = ((100, 0), (50, 4096 * MIB))
"""SM percentage and memory limit in bytes (0: none) of the clients that show whether MPS works."""
MEASURED_SHARE: Final = 0.3
"""Share of memory for the start that measures its terms: small enough beside other users."""


@dataclasses.dataclass(frozen=True)
class Discovery:
    """Facts of the machine; footprint terms from a start without explicit KV bytes."""

    number: int = 1
    title: str = "Discovery and footprint terms"

    def trials(self, _scale: Scale, /) -> tuple[Trial, ...]:
        return (
            Trial("1.facts", other_seconds=2.0),
            Trial("1.mps", other_seconds=5.0),
            Trial("1.footprint", starts=1, other_seconds=3.0),
        )

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        if trial.id == "1.facts":
            return await _facts(lab)
        if trial.id == "1.mps":
            return await _probed(lab)
        return await _footprint(lab)


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


async def _footprint(lab: Lab) -> Outcome:
    want = Want(
        SMALLEST,
        lab.scale.max_batch,
        share=MEASURED_SHARE,
        env=(("VLLM_LOGGING_LEVEL", "DEBUG"),),
        changes=Changes(explicit_kv=False),
    )
    before = await lab.settled_bytes()
    async with lab.engines([want]) as (engine,):
        log = await asyncio.to_thread(Path(engine.handle.log_path).read_text, errors="replace")
        rise = await lab.settled_bytes() - before
        said = startup_log.parse(log)
        rows = _terms(said, _estimate(engine, await lab.resolved(want)), rise)
        data: dict[str, Any] = {"rows": rows, "start_seconds": round(engine.start_seconds, 1)}
    notes = [
        f"OPT-125M was up after {engine.start_seconds:.0f} s. What NVML shows beyond the engine's "
        "terms is its context and libraries as far as the engine does not count them."
    ]
    if said.explained_bytes is None:
        notes.append("The engine's log does not state its terms.")
    return Outcome(data | {"notes": notes})


def _estimate(engine: Running, resolved: ResolvedModel) -> dict[str, int]:
    """partitiond's estimates of the terms for the same engine."""
    launch = engine.handle.launch
    limits = EngineLimits(launch.max_num_seqs, launch.max_model_len, launch.max_num_batched_tokens)
    terms = footprint(resolved.architecture, limits, 0, DeviceKind.GPU)
    return {
        "weights": terms.weights_bytes,
        "activations": terms.activation_bytes,
        "graphs": terms.graph_bytes,
        "context": terms.context_bytes,
    }


def _terms(
    said: startup_log.StartupMemory, estimated: dict[str, int], rise: int
) -> list[dict[str, Any]]:
    """Engine, NVML and estimate side by side, in MiB."""
    fixed = said.fixed_bytes
    weights = said.weights_bytes or said.loaded_bytes
    outside = said.non_torch_bytes
    if outside is None and fixed is not None and said.loaded_bytes is not None:
        outside = fixed - said.loaded_bytes
    explained = said.explained_bytes
    pairs = [
        ("weights", weights, estimated["weights"]),
        ("context and libraries", outside, estimated["context"]),
        ("activations", said.activation_bytes, estimated["activations"]),
        ("CUDA graphs", said.graph_bytes, estimated["graphs"]),
        ("KV cache", said.kv_cache_bytes, None),
        ("proposed KV cache", said.proposed_kv_bytes, None),
        ("all terms", explained, None),
        ("rise of used memory (NVML)", rise, None),
        ("unexplained", rise - explained if explained is not None else None, None),
    ]
    return [
        {"term": name, "engine MiB": _mib(engine), "partitiond's estimate MiB": _mib(estimate)}
        for name, engine, estimate in pairs
    ]


def _mib(value: int | None) -> float | None:
    return None if value is None else round(value / MIB, 1)
