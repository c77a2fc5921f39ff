"""Shows two cases: `python -m bench.planner.cases paper|mixed`.

`paper`: OPT-125M, 1.3B and 2.7B on one A100 40GB, each alone and all together, in each sharing
mode: the number of replicas, their batch, and the requests/s.

`mixed`: twelve models of six sizes on four A100 80GB, beside two ways without a planner: one
model on each GPU, and equal memory shares (models dealt out in turn, time-sliced, one replica
each). The comparison is by the demand served on the four GPUs, and by the GPUs
needed to serve all of it.

All profiles are estimates from architectures and data sheets: the cases compare ways of planning;
they predict no measured figure.
"""

import argparse
import collections
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from partitiond.core.hardware.kinds import Device, SharingMode, headroom_bytes
from partitiond.core.performance.interference import sigma
from partitiond.core.plan.record import Candidate, Infeasible, ModelDemand, Objective, Plan
from partitiond.fleet.file import Fleet, load_fleet
from partitiond.fleet.offline import estimated_demands, fleet_request
from partitiond.planner.api import solve

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
SECONDS: Final = 10.0
MODES: Final = {
    "memory share": (SharingMode.MEMORY,),
    "MPS": (SharingMode.MPS,),
    "MIG": (SharingMode.MIG,),
    "any": (SharingMode.WHOLE, SharingMode.MEMORY, SharingMode.MPS, SharingMode.MIG),
}
MOST_GPUS: Final = 64


def main() -> None:
    """Print one case or both."""
    parser = argparse.ArgumentParser(prog="python -m bench.planner.cases", description=__doc__)
    parser.add_argument("case", nargs="?", choices=("paper", "mixed", "both"), default="both")
    case = parser.parse_args().case
    if case in ("paper", "both"):
        paper()
    if case in ("mixed", "both"):
        mixed()


def paper() -> None:
    """The paper's models on its device, by sharing mode."""
    fleet = load_fleet(EXAMPLES / "paper-a100-40gb.toml")
    print("OPT on one A100 40GB, 512 in / 256 out; all profiles estimated")
    groups = [*((spec,) for spec in fleet.models), fleet.models]
    for specs in groups:
        print(f"\n{' + '.join(spec.name for spec in specs)}")
        for name, modes in MODES.items():
            devices = tuple(dataclasses.replace(d, modes=modes) for d in fleet.devices)
            asked = dataclasses.replace(fleet, models=tuple(specs), devices=devices)
            objective = Objective.MAX_GOODPUT if len(specs) == 1 else Objective.MAX_MIN
            made = solve(fleet_request(asked, objective=objective, time_limit_seconds=SECONDS))
            print(f"  {name:>12}  {_describe(made)}")


def _describe(made: Plan | Infeasible) -> str:
    if isinstance(made, Infeasible):
        return made.reasons[0]
    pieces = []
    for forecast in made.forecasts:
        mine = [p.candidate for p in made.placements if p.model == forecast.model]
        count = collections.Counter((c.size.key, c.batch) for c in mine)
        how = ", ".join(f"{n} x {key} at batch {b}" for (key, b), n in sorted(count.items()))
        latency = forecast.tpot_p95_seconds
        pieces.append(
            f"{forecast.model}: {how or 'no replica'}: {forecast.capacity_req_per_s:.1f} req/s"
            + (f", TPOT p95 {latency * 1e3:.0f} ms" if latency is not None else "")
        )
    proof = made.certificate
    return f"\n{'':16}".join([*pieces, f"[{proof.status.value}, gap {proof.gap:.1%}]"])


def mixed() -> None:
    """Plan twelve models on four GPUs, with and without a planner."""
    fleet = load_fleet(EXAMPLES / "mixed-four-a100.toml")
    demands = tuple(estimated_demands(fleet, fleet.devices, ""))
    wanted = math.fsum(_wanted(d) for d in demands)
    ours = _solved(fleet, fleet.devices, Objective.MAX_GOODPUT)
    every = _solved(fleet, _gpus(fleet, MOST_GPUS), Objective.MIN_DEVICES)
    rows = [
        ("one model per GPU", *_one_per_gpu(demands, fleet.devices)),
        ("equal memory shares", *_equal_shares(demands, fleet.devices)),
        ("partitiond", ours.certificate.value, every.certificate.value),
        ("no plan is better than", ours.certificate.bound, every.certificate.bound),
    ]
    print(f"\n12 models on 4 A100 80GB, {wanted:g} requests/s wanted; all profiles estimated")
    print(f"{'':>24} {'served req/s':>13} {'share':>7} {'GPUs for all of it':>19}")
    for name, served, gpus in rows:
        shown = "-" if gpus is None else f"{gpus:g}"
        print(f"{name:>24} {served:13.1f} {served / wanted:7.1%} {shown:>19}")


def _wanted(demand: ModelDemand) -> float:
    return demand.demand.planned_req_per_s or 0.0


def _solved(fleet: Fleet, devices: tuple[Device, ...], objective: Objective) -> Plan:
    asked = dataclasses.replace(fleet, devices=devices)
    made = solve(fleet_request(asked, objective=objective, time_limit_seconds=SECONDS))
    if isinstance(made, Infeasible):
        raise SystemExit(made.reasons[0])
    return made


def _gpus(fleet: Fleet, count: int) -> tuple[Device, ...]:
    first = fleet.devices[0]
    return tuple(
        dataclasses.replace(first, id=f"{first.hardware}-{i}", host=f"node-{i // 8}")
        for i in range(count)
    )


def _best(demand: ModelDemand, memory_bytes: int) -> Candidate | None:
    """The candidate with the most requests/s that fits a memory share alone."""
    fits = [
        c
        for c in demand.candidates
        if c.size.mode is SharingMode.MEMORY and c.memory_bytes <= memory_bytes
    ]
    return max(fits, key=lambda c: c.capacity_req_per_s, default=None)


def _room(device: Device) -> int:
    return device.memory_bytes - headroom_bytes(device.memory_bytes)


def _one_per_gpu(
    demands: Sequence[ModelDemand], devices: Sequence[Device]
) -> tuple[float, float | None]:
    """Give the models of largest demand a GPU each; for the full demand, as many as it needs."""
    best = {d.model: _best(d, _room(devices[0])) for d in demands}
    served = [
        min(_wanted(d), c.capacity_req_per_s) for d in demands if (c := best[d.model]) is not None
    ]
    gpus = [
        math.ceil(_wanted(d) / c.capacity_req_per_s - 1e-9)
        for d in demands
        if (c := best[d.model]) is not None
    ]
    complete = len(gpus) == len(demands)
    return sum(sorted(served)[-len(devices) :]), float(sum(gpus)) if complete else None


def _equal_shares(
    demands: Sequence[ModelDemand], devices: Sequence[Device]
) -> tuple[float, float | None]:
    """Deal models out to the GPUs in turn, with equal memory; add GPUs until all is served."""
    served = _served_evenly(demands, devices[0], len(devices))
    wanted = math.fsum(_wanted(d) for d in demands)
    enough = (
        n
        for n in range(1, MOST_GPUS + 1)
        if _served_evenly(demands, devices[0], n) >= wanted * (1 - 1e-9)
    )
    gpus = next(enough, None)
    return served, None if gpus is None else float(gpus)


def _served_evenly(demands: Sequence[ModelDemand], device: Device, gpus: int) -> float:
    """Requests/s served; with more GPUs than models, models are dealt out repeatedly."""
    rates: dict[str, float] = collections.defaultdict(float)
    slots = max(gpus, len(demands))
    dealt = [[demands[i % len(demands)] for i in range(n, slots, gpus)] for n in range(gpus)]
    for here in dealt:
        chosen = [_best(d, _room(device) // len(here)) for d in here]
        placed = [c for c in chosen if c is not None]
        slow = sigma(SharingMode.MEMORY, [c.busy for c in placed], kappas=[c.kappa for c in placed])
        for c in placed:
            rates[c.model] += c.capacity_req_per_s / slow
    return math.fsum(min(_wanted(d), rates[d.model]) for d in demands)


if __name__ == "__main__":
    main()
