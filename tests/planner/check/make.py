"""Writes plans by hand, without a solver, so that each test can break one rule of one."""

import dataclasses
from collections.abc import Sequence

from partitiond.core.hardware import partition as parts
from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.performance.interference import Interference
from partitiond.core.plan import record
from partitiond.core.units import Bytes
from partitiond.planner.check import Before, check_plan
from tests.planner.build import FREE


def placed(
    candidate: record.Candidate,
    number: int = 1,
    on: str = "gpu-0",
    *,
    model: str = "",
    at: parts.Partition | None = None,
    **changes: object,
) -> record.Placement:
    """Replica `number` of the candidate's model; `changes` are those of its partition."""
    model = model or candidate.model
    partition = at or _partition(candidate, on)
    partition = dataclasses.replace(partition, **changes)  # type: ignore[arg-type]
    return record.Placement(f"{model}-{number}", model, on, partition, candidate)


def _partition(candidate: record.Candidate, on: str) -> parts.Partition:
    size, memory = candidate.size, candidate.memory_bytes
    match size.mode:
        case SharingMode.WHOLE:
            return parts.WholeDevice(on, memory)
        case SharingMode.MEMORY:
            return parts.MemoryShare(on, memory)
        case SharingMode.MPS:
            return parts.MpsShare(on, memory, size.sm_percent)
        case SharingMode.CORES:
            return parts.CpuCores(on, memory, tuple(range(size.cores)))
        case _:
            return parts.MigSlice(on, memory, size.mig_profile, 0, 1)


def plan_of(
    devices: Sequence[Device],
    placements: Sequence[record.Placement],
    demands: Sequence[record.ModelDemand],
    *,
    unplaced: Sequence[record.Unplaced] | None = (),
    held_back: Sequence[record.HeldBack] = (),
    slowed: float = 1.0,
    **certificate: object,
) -> record.Plan:
    """A plan that claims what is true of its placements where each of them is slowed like this.

    Its certificate is of `min-devices` and proves the devices in use; `certificate` changes that.
    Where `unplaced` is None it lists what is missing.
    """
    forecasts, missing = [], []
    for demand in demands:
        mine = [p.candidate.capacity_req_per_s for p in placements if p.model == demand.model]
        rate = sum(mine) / slowed
        forecasts.append(
            record.ModelForecast(demand.model, len(mine), rate, None, None, None, None)
        )
        lacks = (demand.demand.req_per_s or 0.0) - rate
        if lacks > 0 or not mine:
            missing.append(record.Unplaced(demand.model, "", max(0.0, lacks)))
    value = certificate.pop("value", float(len({p.device_id for p in placements})))
    claims: dict[str, object] = {"objective": record.Objective.MIN_DEVICES, "value": value}
    claims |= {"bound": value, "gap": 0.0, "status": record.Status.FEASIBLE, "method": "hand"}
    left_out = tuple(missing if unplaced is None else unplaced)
    claims["partial"] = bool(left_out or held_back)
    proof = record.Certificate(seconds=0.0, **(claims | certificate))  # type: ignore[arg-type]
    return record.Plan(
        "plan", tuple(placements), tuple(devices), tuple(forecasts), left_out, proof,
        explanation=(), created_at="", held_back=tuple(held_back),
    )  # fmt: skip


def said(
    devices: Sequence[Device],
    placements: Sequence[record.Placement],
    demands: Sequence[record.ModelDemand],
    *,
    interference: Interference = FREE,
    memory: Sequence[tuple[str, int]] = (),
    before: Before | None = None,
    **changes: object,
) -> tuple[str, ...]:
    """What the checker says of the plan that `plan_of` makes of this."""
    plan = plan_of(devices, placements, demands, **changes)  # type: ignore[arg-type]
    return check_plan(plan, demands, interference, memory, before or Before())


def lines(says: str) -> tuple[str, ...]:
    """The sentences of a text that has " | " between them."""
    return tuple(says.split(" | ")) if says else ()


def bytes_more(candidate: record.Candidate, more: int) -> record.Candidate:
    """The candidate with a footprint of `more` bytes more."""
    return dataclasses.replace(candidate, memory_bytes=Bytes(candidate.memory_bytes + more))
