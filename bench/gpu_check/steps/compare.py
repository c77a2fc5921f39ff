"""Runs step 5: compares the estimates made without an engine with the measurements."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bench.gpu_check import paper
from bench.gpu_check.lab import Lab, Want
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import Trial
from bench.gpu_check.steps import Outcome
from bench.gpu_check.steps.grid import SWEEPS
from bench.profiler.factor_fit import compared, estimated
from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.hardware.lookup import hardware_for_key
from partitiond.core.model.workload import Workload
from partitiond.core.performance.estimate import hardware_of
from partitiond.core.performance.footprint import max_batch
from partitiond.core.performance.roofline import NO_FACTORS
from partitiond.core.performance.transfer_fit import Source, engine_argument, source_of
from partitiond.core.units import MIB


@dataclasses.dataclass(frozen=True)
class Compare:
    """Figures at the knee and terms of the footprint, estimated and measured."""

    number: int = 5
    title: str = "Estimate against measured"

    def trials(self, _scale: Scale, /) -> tuple[Trial, ...]:
        return tuple(Trial(f"5.{model}", (SWEEPS[model],)) for model in paper.MAX_BATCH)

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        model = trial.id.removeprefix("5.")
        resolved = await lab.resolved(Want(model, lab.scale.max_batch))
        source = source_of(lab.measured(model), resolved.architecture, hardware_of(lab.device))
        found = estimated(source, NO_FACTORS)
        papers = _on_papers(source) if lab.device.kind is DeviceKind.GPU else {}
        ours = max_batch(resolved.architecture, Workload(512, 256), paper.MEMORY_BYTES)
        started = int(engine_argument(source.profile, "--max-num-seqs") or 0)
        terms = [
            dataclasses.asdict(of.footprint)
            for of in (estimated(source, NO_FACTORS, started), source.profile)
        ]
        rows = [
            _row(model, "paper's max batch (36 GB)", ours, paper.MAX_BATCH[model]),
            *(
                _row(model, name, *sides) | {ON_PAPERS: _short(papers.get(name))}
                for name, sides in compared(source, found).items()
            ),
            *(
                _row(model, f"{name.removesuffix('_bytes')} MiB", made / MIB, terms[1][name] / MIB)
                for name, made in terms[0].items()
            ),
        ]
        return Outcome({"rows": rows, "notes": [PAPER_ROW, *([OTHER_GPU] if papers else [])]})


def _on_papers(source: Source) -> Mapping[str, float]:
    """The figures by the estimate for the paper's GPU."""
    subject = dataclasses.replace(source.subject, hardware=hardware_for_key(PAPERS_GPU))
    other = estimated(dataclasses.replace(source, subject=subject), NO_FACTORS)
    return {name: made for name, (made, _) in compared(source, other).items()}


PAPERS_GPU = "a100-40gb"
ON_PAPERS = "estimated for the paper's GPU"
PAPER_ROW = "In the first row, 'measured' is the paper's Table 1, not this machine."
OTHER_GPU = (
    "By as much as the two estimates differ, the GPU explains a difference from the paper; the "
    "rest is the engine's, or the estimate's error."
)


def _row(model: str, figure: str, made: float, told: float) -> dict[str, Any]:
    return {
        "model": model,
        "figure": figure,
        "estimated": _short(made),
        "measured": _short(told),
        "ratio": round(made / told, 3) if made and told else None,
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
