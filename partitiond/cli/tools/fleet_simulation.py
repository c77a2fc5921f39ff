"""Adds files, settings and plans to `partitiond.simulated.fleet` for `simulate fleet`."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from loadgen.errors import InputError as TraceError
from loadgen.load.traces import read_trace
from partitiond.cli.plan.offline import laid_over, resolved_architecture, saved_plan
from partitiond.core.errors import InputError
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import Infeasible, Plan
from partitiond.fleet.file import Fleet, load_fleet
from partitiond.fleet.offline import fleet_request, recognise
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from partitiond.settings.schema import Settings
from partitiond.simulated.fleet.arrivals import (
    Arrival,
    ArrivalKind,
    SyntheticArrivals,
    made_up,
    replay_trace,
)
from partitiond.simulated.fleet.engine_model import best_known
from partitiond.simulated.fleet.report import FleetReport
from partitiond.simulated.fleet.run import FleetOptions, FleetRun

USUAL_SECONDS = 600.0


@dataclasses.dataclass(frozen=True, slots=True)
class Simulated:
    """A request for a simulation; see the command's options."""

    source: Path
    trace: Path | None = None
    kind: ArrivalKind = ArrivalKind.POISSON
    factor: float = 1.0
    seconds: float | None = None
    plan: Path | None = None
    time_limit_seconds: float | None = None
    seed: int = 0


def simulate(asked: Simulated, settings: Settings) -> FleetReport:
    """Plan the fleet, simulate the requests to it, and return the report.

    Raises:
        InputError: a file is invalid, or no plan can be made.
        SpecError: the fleet cannot be planned.
    """
    fleet = load_fleet(asked.source)
    if not fleet.devices:
        raise InputError(
            f"{asked.source} names no devices.",
            hint="Add a [[devices]] table: hardware and count.",
        )
    request = _request(asked, fleet, settings)
    plan = saved_plan(asked.plan) if asked.plan is not None else _solved(request)
    models = [
        recognise(fleet, spec, lambda form: resolved_architecture(form, settings))
        for spec in fleet.models
    ]
    specs = {spec.name: spec for spec, _ in models}
    found = {(spec.name, form): known for spec, forms in models for form, known in forms.items()}
    strangers = {placement.model for placement in plan.wanted} - specs.keys()
    if strangers:
        raise InputError(
            f"The plan places models that {asked.source} does not have: "
            f"{', '.join(sorted(strangers))}.",
            hint="Give the fleet file that it was made from.",
        )
    engine_of = best_known(specs, {device.id: device for device in plan.devices}, found)
    limits = settings.proxy
    options = FleetOptions(
        seconds=_seconds(asked),
        seed=asked.seed,
        max_queue=limits.max_queue,
        max_wait_seconds=limits.max_wait_seconds,
    )
    run = FleetRun(plan, specs, engine_of, options)
    return run.run(_arrivals(asked, plan, specs))


def _seconds(asked: Simulated) -> float:
    if asked.seconds is not None:
        return asked.seconds
    return USUAL_SECONDS if asked.trace is None else math.inf


def _request(asked: Simulated, fleet: Fleet, settings: Settings) -> PlanRequest:
    planner = laid_over(settings, fleet).planner
    request = fleet_request(
        fleet,
        objective=planner.objective,
        time_limit_seconds=asked.time_limit_seconds or planner.time_limit_seconds,
        seed=planner.seed,
        architecture_of=lambda spec: resolved_architecture(spec, settings),
    )
    return dataclasses.replace(request, deterministic=planner.deterministic)


def _solved(request: PlanRequest) -> Plan:
    found = solve(request)
    if isinstance(found, Infeasible):
        raise InputError(
            f"There is no plan to simulate: {'; '.join(found.reasons)}.",
            hint="; ".join(found.remedies) or "Ask `partitiond plan --from` what would help.",
        )
    return found


def _arrivals(
    asked: Simulated, plan: Plan, specs: Mapping[str, ModelSpec]
) -> dict[str, Iterator[Arrival]]:
    """Arrivals by model; a model without a demanded rate gets the capacity of the plan."""
    rates = {
        forecast.model: forecast.capacity_req_per_s
        if forecast.demand_req_per_s is None
        else forecast.demand_req_per_s
        for forecast in plan.forecasts
    }
    if asked.trace is not None:
        try:
            trace = read_trace(asked.trace)
        except TraceError as error:
            raise InputError(str(error), hint="`docs/loadgen.md` lists what is known.") from error
        return replay_trace(trace, rates, speed=asked.factor, seed=asked.seed)
    made = SyntheticArrivals(asked.kind, asked.factor, period_seconds=_seconds(asked))
    return made_up(
        made, {name: (rate, specs[name].workload) for name, rate in rates.items()}, asked.seed
    )
