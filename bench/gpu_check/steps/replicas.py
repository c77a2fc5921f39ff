"""Runs steps 4, 14 and 15: replicas of one model side by side, under MPS and time-sliced."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Any

from bench.gpu_check.lab import SHARE, Lab, Running, Want
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import Trial
from bench.gpu_check.side_by_side import Together
from bench.gpu_check.steps import Outcome
from bench.gpu_check.steps.single import best_single
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.profile.sharing import ReplicationRun
from partitiond.serde import to_jsonable

MODES = {"mps": SharingMode.MPS, "slices": SharingMode.MEMORY}


@dataclasses.dataclass(frozen=True)
class Replicas:
    """Measures several numbers of replicas on the same engines, which have equal memory shares.

    The paper's Figure 5 divides the memory anew for each number; a start each would take most of
    the time, and what a small model does not need of its share changes nothing.

    Attributes:
        number: the step.
        model: its sweep, in the step `sweep`, names the batch.
    """

    number: int
    model: str
    sweep: int

    @property
    def title(self) -> str:
        return f"{self.model}: replicas side by side"

    def trials(self, scale: Scale, /) -> tuple[Trial, ...]:
        return tuple(
            Trial(
                f"{self.number}.{mode}-{name}",
                (f"{self.sweep}.{self.model}",),
                starts=1,  # they start side by side
                windows=len(_counts(scale, most)),
                other_seconds=2.0 + most,
            )
            for mode in MODES
            for name, most in (("few", scale.few), ("many", scale.many))
        )

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        name, _, number = trial.id.partition(".")[2].partition("-")
        mode, most = MODES[name], lab.scale.few if number == "few" else lab.scale.many
        batch = min(lab.best_batch(self.model), max(1, lab.scale.max_batch // most))
        seen: list[Together] = []
        async with replicas(lab, self.model, most, batch, mode) as running:
            cores_each = len(running[0].handle.launch.cores)
            for count in _counts(lab.scale, most):
                seen.append(await lab.load(running[:count], [batch] * count))
                lab.say(f"{count} replicas: {seen[-1].output_tokens_per_s:.0f} output tokens/s")
        runs = [as_run(together, mode, batch, cores_each) for together in seen]
        sharing = lab.keep_runs(self.model, runs)
        single = best_single(lab.ledger) if self.number == 4 else None
        rows = [_row(together, runs[0], mode, single) for together in seen]
        rows[-1] |= {"u": round(sharing.busy, 3), "kappa": round(sharing.kappa, 4)}
        best = max(run.total_output_tokens_per_s for run in runs)
        return Outcome({"rows": rows, "tokens_per_s": best, "sharing": to_jsonable(sharing)})


def _counts(scale: Scale, most: int) -> list[int]:
    return [count for count in scale.counts if count <= most]


@contextlib.asynccontextmanager
async def replicas(
    lab: Lab,
    model: str,
    count: int,
    batch: int,
    mode: SharingMode,
    *,
    sm_percent: int = 100,
) -> AsyncIterator[list[Running]]:
    """Run `count` replicas with equal shares of the memory; they are ready and idle.

    Raises:
        MpsUnavailableError: MPS was asked for and does not start.
        EngineError: an engine did not start.
    """
    want = Want(model, batch, share=SHARE / count)
    async with sharing_device(lab, [want] * count, mode, sm_percent=sm_percent) as running:
        yield running


@contextlib.asynccontextmanager
async def sharing_device(
    lab: Lab, wants: Sequence[Want], mode: SharingMode, *, sm_percent: int = 100
) -> AsyncIterator[list[Running]]:
    """Run engines that share the device in this mode; an MPS daemon ends together with them.

    Under MPS, a percentage caps the SMs of each engine, and reserves none.
    """
    async with contextlib.AsyncExitStack() as stack:
        if mode is SharingMode.MPS:
            daemon = await stack.enter_async_context(lab.mps())
            wants = [dataclasses.replace(w, env=daemon.client_env(sm_percent, 0)) for w in wants]
        yield await stack.enter_async_context(lab.engines(wants))


async def replicas_row(
    lab: Lab, model: str, count: int, batch: int, mode: SharingMode
) -> dict[str, Any]:
    """A row with the figures of `count` replicas in one window. Raises as `replicas` does."""
    async with replicas(lab, model, count, batch, mode) as running:
        together = await lab.load(running, [batch] * count)
    return {"replicas": count, "sharing": shown(mode), "batch each": batch, **together.row()}


def as_run(together: Together, mode: SharingMode, batch: int, cores_each: int) -> ReplicationRun:
    """A window in the form that the profile keeps."""
    row = together.row()
    return ReplicationRun(
        replicas=len(together.each),
        mode=mode.value,
        cores_each=cores_each,
        batch_each=batch,
        output_tokens_per_s=tuple(r["output_tokens_per_s"] for r in together.each),
        half_width=row["half width"] or 0.0,
        tpot_p95_seconds=together.worst("tpot_p95_seconds") or 0.0,
        ttft_p95_seconds=together.worst("ttft_p95_seconds") or 0.0,
        windows=1,
        telemetry=together.telemetry,
    )


def shown(mode: SharingMode) -> str:
    """The mode in the paper's words."""
    return "MPS" if mode is SharingMode.MPS else "time-sliced"


def _row(
    together: Together, alone: ReplicationRun, mode: SharingMode, single: float | None
) -> dict[str, Any]:
    rate, one = together.output_tokens_per_s, alone.total_output_tokens_per_s
    return {
        "replicas": len(together.each),
        "sharing": shown(mode),
        "batch each": alone.batch_each,
        "by one alone": round(rate / one, 3) if one else None,
        "by best single": round(rate / single, 3) if single else None,
        **together.row(),
    }
