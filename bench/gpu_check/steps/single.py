"""Runs step 3: the best throughput of one engine, over API server processes and CUDA graphs."""

import dataclasses

from bench.gpu_check.lab import Lab, Want
from bench.gpu_check.ledger import Ledger
from bench.gpu_check.runner import Changes
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import Trial
from bench.gpu_check.steps import Outcome

MODEL = "opt-125m"
NEEDS = (f"2.{MODEL}",)


@dataclasses.dataclass(frozen=True)
class Single:
    """One engine at its best batch, in several configurations."""

    number: int = 3
    title: str = "Best single engine"

    def trials(self, scale: Scale, /) -> tuple[Trial, ...]:
        servers = [Trial(f"3.servers-{n}", NEEDS, starts=1, windows=1) for n in scale.servers]
        return (*servers, Trial("3.eager", NEEDS, starts=1, windows=1))

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        batch = lab.best_batch(MODEL)
        eager = trial.id == "3.eager"
        servers = 1 if eager else int(trial.id.rpartition("-")[2])
        simulated = lab.tools.engine_kind == "simulated"
        want = Want(
            MODEL,
            batch,
            args=("--enforce-eager",) if eager and not simulated else (),
            changes=Changes(api_servers=servers),
        )
        async with lab.engines([want]) as running:
            together = await lab.load(running, [batch])
        name = "CUDA graphs off" if eager else f"API server processes: {servers}"
        row = {"engine": name, "batch": batch, **together.row()}
        rate = together.output_tokens_per_s
        return Outcome({"rows": [row], "tokens_per_s": rate, "notes": _beside(lab.ledger, rate)})


def _beside(ledger: Ledger, rate: float) -> list[str]:
    """What replicas reached, if they were measured before."""
    several = [
        float(entry.data["tokens_per_s"])
        for name, entry in ledger.entries.items()
        if name.startswith("4.") and "tokens_per_s" in entry.data
    ]
    best = max(several, default=0.0)
    return [f"Replicas reached {best / rate:.2f} times this engine's throughput."] * bool(best)


def best_single(ledger: Ledger) -> float | None:
    """The highest throughput of one engine so far, in output tokens/s."""
    found = [
        float(entry.data["tokens_per_s"])
        for name, entry in ledger.entries.items()
        if name.startswith("3.") and "tokens_per_s" in entry.data
    ]
    return max(found, default=None)
