"""Runs step 9: OPT-2.7B with one to eight replicas, and with shorter outputs."""

import dataclasses

from bench.gpu_check.lab import Lab, Want
from bench.gpu_check.mps import MpsUnavailableError
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import Trial
from bench.gpu_check.steps import Outcome
from bench.gpu_check.steps.replicas import replicas_row
from partitiond.core.hardware.kinds import SharingMode

MODEL = "opt-2.7b"


@dataclasses.dataclass(frozen=True)
class Large:
    """The model that gains least from replicas in the paper; its Figure 2's output lengths."""

    number: int = 9
    title: str = "OPT-2.7B: replicas, output lengths"

    def trials(self, scale: Scale, /) -> tuple[Trial, ...]:
        several = [
            # The model's requests are long, and a window lasts twice as long as a request.
            Trial(f"9.replicas-{count}", starts=count, windows=2, other_seconds=2.0)
            for count in scale.large_replicas
        ]
        outputs = [Trial(f"9.output-{o}", starts=1, windows=1) for o in scale.outputs]
        return (*several, *outputs)

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        what, _, number = trial.id.removeprefix("9.").partition("-")
        if what == "replicas":
            return await _replicas(lab, int(number))
        return await _outputs(lab, int(number))


async def _replicas(lab: Lab, count: int) -> Outcome:
    """Measure under MPS if it works, else time-sliced; the row names the mode."""
    batch = max(1, lab.scale.large_batch // count)
    try:
        row = await replicas_row(lab, MODEL, count, batch, SharingMode.MPS)
    except MpsUnavailableError:
        row = await replicas_row(lab, MODEL, count, batch, SharingMode.MEMORY)
    return Outcome({"rows": [row]})


async def _outputs(lab: Lab, output_tokens: int) -> Outcome:
    workload = dataclasses.replace(lab.scale.workload, output_tokens=output_tokens)
    batch = max(1, lab.scale.large_batch // 4)
    async with lab.engines([Want(MODEL, batch, workload=workload)]) as running:
        together = await lab.load(running, [batch])
    return Outcome({"rows": [{"output tokens": output_tokens, "batch": batch, **together.row()}]})
