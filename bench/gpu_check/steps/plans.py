"""Runs step 11: a daemon applies plans, serves them through its proxy, and gives the GPU back.

While the plan serves, the best single engine stands beside it, and arrivals alternate between the
two: the rate of requests within the same bounds is what a user gains.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.gpu_check.lab import Lab, Want
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import ImpossibleError, Trial
from bench.gpu_check.served import Left, Served, served
from bench.gpu_check.steps import Outcome
from bench.gpu_check.steps.grid import MODEL, NEEDS, best_servers, needs_of
from partitiond.core.errors import EngineError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.plan.record import Placement
from partitiond.core.units import MIB

PLAN, SINGLE = "plan", "best single engine"
SINGLE_SHARE: Final = 0.25
"""Share of the memory for the single engine beside the plan."""
UNLIMITED: Final = 4096
"""Requests in flight at the proxy, which limits them itself."""
MODES = {"memory": SharingMode.MEMORY, "mps": SharingMode.MPS, "mig": SharingMode.MIG}


@dataclasses.dataclass(frozen=True)
class Plans:
    """Checks that the GPU gets what the plan says, and is as before afterwards."""

    number: int = 11
    title: str = "Plans applied by a daemon"

    def trials(self, scale: Scale, /) -> tuple[Trial, ...]:
        return tuple(
            Trial(
                f"11.{name}",
                needs_of(name, *NEEDS),
                starts=2,  # the daemon starts its replicas together, then comes the single engine
                windows=1 + 4 * len(scale.open_shares),  # an open window is twice as long
                other_seconds=25.0,
            )
            for name in MODES
        )

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        mode = MODES[trial.id.removeprefix("11.")]
        if mode is SharingMode.MIG and not lab.tools.mig:
            raise ImpossibleError("GPU instances may not be made (--mig allows it)")
        simulated = lab.tools.engine_kind == "simulated"
        if mode is SharingMode.MIG and not simulated and mode not in lab.device.modes:
            raise ImpossibleError("MIG mode is off: sudo nvidia-smi -mig 1 switches it on")
        return await _applied(lab, mode)


async def _applied(lab: Lab, mode: SharingMode) -> Outcome:
    wanted = lab.scale.planned_replicas
    before = await lab.settled_bytes()
    async with served(lab, mode) as daemon:
        placements, seconds = await daemon.serve(MODEL, wanted)
        odd = {p.partition.mode for p in placements} - {mode}
        if odd:
            raise EngineError(
                f"the plan has partitions of {', '.join(sorted(odd))}, not of {mode} alone.",
                hint="See the plan in the report.",
                facts={"modes": sorted(odd)},
            )
        row, e2el = await _measured(daemon, placements)
        arrived = await _arrivals(lab, daemon, placements, e2el)
        left = await daemon.end()
    after = await lab.settled_bytes()
    row |= {"started s": round(seconds, 1), **_left(left, after - before)}
    notes = [f"{mode}: {_text(p)}" for p in placements]
    if not left.nothing:
        notes.append(f"{mode}: {left.journal} journal entries and {left.processes} processes left!")
    notes.append(f"{mode}: {compared(arrived)}")
    rows = [row, *({**one, "sharing": mode.value} for one in arrived)]
    return Outcome({"rows": rows, "notes": notes})


async def _arrivals(
    lab: Lab, daemon: Served, placements: Sequence[Placement], e2el_seconds: float
) -> list[dict[str, Any]]:
    """Rows of both sides at the same rates; the side that goes first changes with each rate."""
    promised = sum(p.candidate.capacity_req_per_s for p in placements)
    servers = best_servers(lab, 4) or 1
    want = Want(MODEL, lab.best_batch(MODEL), share=SINGLE_SHARE, pinned=False, servers=servers)
    rows = []
    async with lab.engines([want]) as (single,):
        streams = {
            PLAN: daemon.stream(MODEL, UNLIMITED),
            SINGLE: lab.stream(single, 0, single.handle.launch.max_num_seqs),
        }
        for number, share in enumerate(lab.scale.open_shares):
            for side in (PLAN, SINGLE) if number % 2 == 0 else (SINGLE, PLAN):
                found = await lab.arrive(streams[side], share * promised, e2el_seconds)
                rows.append(_arrived(side, share * promised, found))
    return rows


def _arrived(side: str, req_per_s: float, found: Mapping[str, Any]) -> dict[str, Any]:
    ttft, tpot = found["ttft_p95_seconds"], found["tpot_p95_seconds"]
    return {
        "open loop": side,
        "offered requests/s": round(req_per_s, 2),
        "good requests/s": round(found["goodput_req_per_s"], 2),
        "good": None if found["attainment"] is None else round(found["attainment"], 3),
        "TTFT p95 ms": None if ttft is None else round(1000 * ttft, 1),
        "TPOT p95 ms": None if tpot is None else round(1000 * tpot, 2),
        "arrivals": found["arrivals"],
        "failed": found["errors"],
        "client core": round(found["cpu_share"], 2),
    }


def compared(rows: Sequence[Mapping[str, Any]]) -> str:
    """The best goodput of each side, in words. Pure."""
    best = {
        side: max((row["good requests/s"] for row in rows if row["open loop"] == side), default=0.0)
        for side in (PLAN, SINGLE)
    }
    said = f"goodput {best[PLAN]:.2f} requests/s, of the best single engine {best[SINGLE]:.2f}"
    return f"{said}, ratio {best[PLAN] / best[SINGLE]:.2f}." if best[SINGLE] > 0 else f"{said}."


async def _measured(
    daemon: Served, placements: tuple[Placement, ...]
) -> tuple[dict[str, Any], float]:
    """The row of a closed loop through the proxy, and its mean end-to-end latency in seconds."""
    views = await daemon.until_serving(len(placements), seconds=30)
    pids = [view.pid for view in views if view.pid is not None]
    in_flight = sum(p.candidate.batch for p in placements)
    together = await daemon.load(MODEL, in_flight, pids)
    mode = placements[0].partition.mode
    row = {
        "plan": mode.value,
        "replicas": len(placements),
        "failed starts": sum(view.starts for view in views) - len(views),
        "in flight": in_flight,
        "promised tokens/s": round(sum(p.candidate.output_tokens_per_s for p in placements), 1),
        **together.row(),
    }
    return row, together.worst("e2el_mean_seconds") or 0.0


def _left(left: Left, memory_bytes: int) -> dict[str, Any]:
    return {"left MiB": round(memory_bytes / MIB, 1), "left entries": left.journal}


def _text(placement: Placement) -> str:
    partition = placement.partition
    detail = getattr(partition, "sm_percent", None) or getattr(partition, "mig_profile", "")
    return (
        f"{placement.replica_id} batch {placement.candidate.batch}, "
        f"{partition.memory_bytes / MIB:.0f} MiB{f', {detail}' if detail else ''} "
        f"({placement.candidate.profile_kind} profile)"
    )
