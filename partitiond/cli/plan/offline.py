"""Plans for `plan --from FILE`: adds settings and this host to `partitiond.fleet.offline`."""

import asyncio
import dataclasses
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from partitiond.cli.devices.commands import host_devices
from partitiond.cli.interrupts import Interrupts, best_so_far
from partitiond.cli.output import say
from partitiond.core.errors import InputError, SpecError
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.answers import PlanAnswers, PlanProgress, PlanQuestion
from partitiond.core.plan.diff import diff_cost
from partitiond.core.plan.record import (
    Infeasible,
    ModelDemand,
    Placement,
    Plan,
    PlanDiff,
    diff_plans,
)
from partitiond.core.replica.sleep import scales_to_zero
from partitiond.fleet.file import Fleet, load_fleet
from partitiond.fleet.offline import estimated_demands, fleet_request, has_many
from partitiond.models.resolver import Resolver
from partitiond.planner.answers.questions import answer
from partitiond.planner.answers.whatif import World
from partitiond.planner.api import solve
from partitiond.planner.pack.flow import Solving, progress_of, run_flow
from partitiond.platform.bounded_files import content
from partitiond.serde import from_stored
from partitiond.settings.schema import Settings, load_settings, settings_values
from partitiond.settings.sources import flatten

SAVED: Final = "Save one with `partitiond plan --json > FILE`."
MAX_PLAN_BYTES: Final = 256 * 2**20
"""A plan of 5,000 models on 1,000 devices takes about 30 MB."""
ESTIMATES_TOLD: Final = 50
"""Models between two progress reports of the estimates."""
OnProgress = Callable[[PlanProgress], None]


@dataclasses.dataclass(frozen=True, slots=True)
class OfflinePlan:
    """The result of planning a file.

    Attributes:
        diff: against the plan that was named as running; None if none was named.
    """

    outcome: Plan | Infeasible
    answers: PlanAnswers
    diff: PlanDiff | None

    @property
    def plan(self) -> Plan | None:
        """The plan, if there is one."""
        return None if isinstance(self.outcome, Infeasible) else self.outcome

    @property
    def infeasible(self) -> Infeasible | None:
        """The reasons why there is no plan; None if there is one."""
        return self.outcome if isinstance(self.outcome, Infeasible) else None


@dataclasses.dataclass(frozen=True, slots=True)
class OfflineOptions:
    """Options of planning a file; None takes the file's own settings, then the usual ones."""

    time_limit_seconds: float | None = None
    seed: int | None = None
    deterministic: bool = False
    against: Path | None = None


def plan_file(
    path: Path,
    settings: Settings,
    question: PlanQuestion,
    options: OfflineOptions,
    on_progress: OnProgress | None = None,
) -> OfflinePlan:
    """Plan the fleet of a file, on the devices of this host if the file has none.

    The file's own `[settings.planner]` overrides the settings, and a flag overrides both. After
    an interrupt, the result is the best plan so far, with the answers known by then.

    Raises:
        InputError: a what-if names something that does not exist; `against` is not a plan.
        SpecError: the file is not a fleet, or a model is not known.
        SettingsError: a setting in the file is wrong.
        ModelSourceError: a model's config cannot be fetched.
        KeyboardInterrupt: interrupted twice.
    """
    running = () if options.against is None else running_of(options.against)
    fleet = _without_zero(load_fleet(path), {placement.model for placement in running})
    planner = laid_over(settings, fleet).planner

    def architecture_of(spec: ModelSpec) -> Architecture:
        return resolved_architecture(spec, settings)

    def estimating(done: int, models: int) -> None:
        if on_progress is not None and done % ESTIMATES_TOLD == 0 and models > ESTIMATES_TOLD:
            title = f"estimating {done:,} of {models:,} models, before the time limit begins"
            on_progress(PlanProgress(title, 1, 1))

    request = fleet_request(
        fleet,
        devices=() if fleet.devices else tuple(host_devices(settings)),
        objective=question.objective or planner.objective,
        time_limit_seconds=options.time_limit_seconds or planner.time_limit_seconds,
        seed=planner.seed if options.seed is None else options.seed,
        architecture_of=architecture_of,
        on_estimate=estimating,
    )
    request = dataclasses.replace(
        request,
        running=running,
        deterministic=options.deterministic or planner.deterministic,
        move_price=planner.move_price if question.move_price is None else question.move_price,
        allow_outage=question.allow_outage,
    )

    def demands(world: World) -> tuple[ModelDemand, ...]:
        changed = dataclasses.replace(fleet, models=world.specs)
        made = estimated_demands(
            changed,
            world.devices,
            request.created_at,
            architecture_of,
            few_sizes=has_many(fleet),
        )
        return tuple(made)

    world = World(fleet.models, request.devices, request.objective)
    flow = answer(question, world, request, demands)
    with best_so_far() as stop:
        outcome, answers = run_flow(flow, _solver(on_progress, stop), stop)
    if options.against is None or isinstance(outcome, Infeasible):
        return OfflinePlan(outcome, answers, None)
    diff = diff_plans(running, outcome.placements)
    takes = diff_cost(diff, outcome.devices)
    return OfflinePlan(outcome, dataclasses.replace(answers, diff=takes), diff)


def _solver(
    on_progress: OnProgress | None, stop: Interrupts
) -> Callable[[Solving], Plan | Infeasible]:
    """A solver that runs in this process, which does nothing else."""

    def solved(step: Solving) -> Plan | Infeasible:
        def tell(progress: PlanProgress) -> None:
            if on_progress is not None:
                on_progress(progress_of(step, progress))

        if on_progress is not None:
            on_progress(PlanProgress(step.title, step.step, step.steps))
        return solve(step.request, tell if on_progress is not None else None, stop=stop)

    return solved


def running_of(path: Path) -> tuple[Placement, ...]:
    """The placements of a plan that `plan --json` printed. Raises InputError."""
    return saved_plan(path).placements


def saved_plan(path: Path) -> Plan:
    """A plan that `plan --json` printed. Raises InputError."""
    try:
        data = json.loads(content(path, SAVED, most_bytes=MAX_PLAN_BYTES))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}.", hint=SAVED) from error
    if isinstance(data, dict) and isinstance(data.get("plan"), dict):
        data = data["plan"]
    try:
        return from_stored(Plan, data)
    except InputError as error:
        raise InputError(f"{path} holds no plan: {error.message}", hint=SAVED) from error


def _without_zero(fleet: Fleet, running: Collection[str]) -> Fleet:
    """Leave out what begins without a replica and does not run, as the daemon does. Raises
    SpecError: nothing is left.
    """
    zero = [spec.name for spec in fleet.models if scales_to_zero(spec)]
    zero = [name for name in zero if name not in running]
    if not zero:
        return fleet
    said = f"{', '.join(zero)}: scaled to zero until the first request, so in no plan."
    if len(zero) == len(fleet.models):
        raise SpecError(said, hint="Leave scale_to_zero_seconds out to plan with them.")
    say(said)
    left = []
    for spec in fleet.models:
        near = tuple(name for name in spec.rules.near if name not in zero)
        rules = dataclasses.replace(spec.rules, near=near)
        if spec.name not in zero:
            left.append(dataclasses.replace(spec, rules=rules))
    return dataclasses.replace(fleet, models=tuple(left))


def laid_over(settings: Settings, fleet: Fleet) -> Settings:
    """The settings, overridden by a fleet file's tables. Raises SettingsError."""
    if not fleet.settings:
        return settings
    values = {**settings_values(settings), **flatten(fleet.settings)}
    return load_settings(None, {}, values, where=f"{fleet.path}: settings").settings


def resolved_architecture(spec: ModelSpec, settings: Settings) -> Architecture:
    """Architecture from a model's folder or the hub, if neither file nor catalog knows it."""
    resolver = Resolver(settings.models_dir, None, settings.models.offline, settings.models.hub)
    return asyncio.run(resolver.architecture(spec))
