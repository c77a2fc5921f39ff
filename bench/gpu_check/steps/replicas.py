"""Runs step 4: replicas of OPT-125M side by side, under MPS, then time-sliced."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Any

from bench.gpu_check.lab import SHARE, Lab, Running, Want
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import Trial
from bench.gpu_check.side_by_side import Together
from bench.gpu_check.steps import Outcome
from bench.gpu_check.steps.single import MODEL, best_single
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.profile.sharing import ReplicationRun, Sharing
from partitiond.serde import to_jsonable

NEEDS = (f"2.{MODEL}", "3.servers-1")
MODES = {"mps": SharingMode.MPS, "slices": SharingMode.MEMORY}


@dataclasses.dataclass(frozen=True)
class Replicas:
    """Measures equal memory shares, as in the paper's Figure 5; one replica alone beside all."""

    number: int = 4
    title: str = "Replicas side by side"

    def trials(self, scale: Scale, /) -> tuple[Trial, ...]:
        return tuple(
            Trial(f"4.{mode}-{count}", NEEDS, starts=count, windows=2, other_seconds=2.0)
            for mode in MODES
            for count in scale.replicas
        )

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        name, _, count = trial.id.removeprefix("4.").partition("-")
        mode, number = MODES[name], int(count)
        batch = min(lab.best_batch(MODEL), max(1, lab.scale.max_batch // number))
        async with replicas(lab, MODEL, number, batch, mode) as running:
            alone = await lab.load(running[:1], [batch])
            together = await lab.load(running, [batch] * number)
        cores_each = len(running[0].handle.launch.cores)
        runs = [as_run(seen, mode, batch, cores_each) for seen in (alone, together)]
        sharing = lab.keep_runs(MODEL, runs)
        return _outcome(best_single(lab.ledger), runs, together, sharing)


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


def _outcome(
    single: float | None, runs: Sequence[ReplicationRun], together: Together, sharing: Sharing
) -> Outcome:
    alone, several = (run.total_output_tokens_per_s for run in runs)
    row = {
        "replicas": len(together.each),
        "sharing": shown(SharingMode(sharing.mode)),
        "batch each": runs[0].batch_each,
        "by best single": round(several / single, 3) if single else None,
        "by one alone": round(several / alone, 3) if alone else None,
        "u": round(sharing.busy, 3),
        "kappa": round(sharing.kappa, 4),
        **together.row(),
    }
    data = {"rows": [row], "tokens_per_s": several, "sharing": to_jsonable(sharing)}
    return Outcome(data)
