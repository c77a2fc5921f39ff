"""Runs step 19: an engine under MPS's memory limit at its estimated footprint."""

import dataclasses
from typing import Any, Final

from bench.gpu_check.lab import Lab, Want, planned_launch
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import Trial
from bench.gpu_check.steps import Outcome
from bench.gpu_check.steps.grid import MODEL, SWEEPS, needs_of, require_caps, sharing_device
from partitiond.core.errors import EngineError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.performance.footprint import footprint
from partitiond.core.units import MIB

MODELS: Final = (MODEL, "qwen3-0.6b")
SHARE: Final = 0.25
"""Share of the memory that the engine is planned for."""


@dataclasses.dataclass(frozen=True)
class Footprints:
    """Shows whether an engine holds what its footprint says: what exceeds the limit is refused."""

    number: int = 19
    title: str = "Footprint under the memory limit of MPS"

    def trials(self, _scale: Scale, /) -> tuple[Trial, ...]:
        return tuple(
            Trial(f"19.{model}", needs_of("mps", SWEEPS[model]), starts=1, windows=1)
            for model in MODELS
        )

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        model = trial.id.removeprefix("19.")
        require_caps(lab, "memory")
        want = Want(model, lab.best_batch(model), share=SHARE)
        request = await lab.request(want)
        planned = planned_launch(request, "check-planned")
        estimated = footprint(
            planned.architecture, planned.limits, planned.launch.kv_cache_bytes, lab.device.kind
        ).peak_bytes
        before = await lab.settled_bytes()
        row: dict[str, Any] = {
            "model": model,
            "batch": planned.max_batch,
            "estimated MiB": round(estimated / MIB, 1),
        }
        try:
            async with sharing_device(
                lab, [want], SharingMode.MPS, limit_bytes=estimated
            ) as running:
                together = await lab.load(running, [planned.max_batch])
                held = await lab.settled_bytes() - before
        except EngineError as error:
            said = f"{model}: it did not serve within its footprint: {error.message}"
            return Outcome({"rows": [{**row, "served": False}], "notes": [said]})
        row |= {
            "served": True,
            "held MiB, with MPS's server": round(held / MIB, 1),
            "held by estimate": round(held / estimated, 3),
            **together.row(),
        }
        return Outcome({"rows": [row]})
