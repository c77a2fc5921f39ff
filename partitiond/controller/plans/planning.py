"""Makes plans on request, and remembers which of them can still be applied."""

import asyncio
import collections
import dataclasses
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final

from partitiond.controller.plans.changed_worlds import (
    ArchitectureOf,
    OnProgress,
    demands_of,
    step_progress,
)
from partitiond.controller.plans.demands import KnownDemands
from partitiond.controller.plans.derived import Derivations
from partitiond.controller.plans.situation import Basis, Situation, changes_between
from partitiond.controller.plans.sleepers import beside_sleepers
from partitiond.controller.profiles.capacity_beside_jobs import host_memory_beside_jobs
from partitiond.controller.profiles.targets import BestProfiles
from partitiond.controller.runtime.engines import Engine
from partitiond.controller.runtime.expectations import gains_of
from partitiond.controller.runtime.start_times import StartTimes
from partitiond.core.errors import ConflictError, InputError, NotFoundError, PartitiondError
from partitiond.core.hardware.hosts import memory_by_host, on_each_host
from partitiond.core.hardware.kinds import Device, DeviceKind, kept_by_silent
from partitiond.core.hardware.partition import Partition
from partitiond.core.hardware.room import overlap
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.answers import PlanAnswers, PlanProgress, PlanQuestion
from partitiond.core.plan.diff import diff_cost
from partitiond.core.plan.record import (
    EMPTY_PLAN_ID,
    MOVE_PRICE,
    Certificate,
    Infeasible,
    ModelDemand,
    ModelForecast,
    Objective,
    Placement,
    Plan,
    PlanDiff,
    Status,
    Unplaced,
    diff_plans,
    same_engine,
)
from partitiond.core.profile.record import Profile
from partitiond.core.replica.free_cores import beside_what_runs
from partitiond.core.replica.leases import Lease
from partitiond.core.replica.obstacles import Obstacle
from partitiond.core.replica.sleep import Sleeper, host_memory
from partitiond.core.replica.states import ReplicaState
from partitiond.core.units import Bytes
from partitiond.core.views.preview import PlanPreview
from partitiond.planner.answers.changes import models_named
from partitiond.planner.answers.questions import answer
from partitiond.planner.answers.whatif import World
from partitiond.planner.check import check_plan
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.flow import Solving, run_flow_async
from partitiond.ports import Clock
from partitiond.store import Store

Solve = Callable[..., Awaitable[Plan | Infeasible]]
"""Solves a `PlanRequest`; if `on_progress` is given, it is called with `PlanProgress`."""
_NOBODY: Final[Mapping[str, int]] = {}
_NOTHING: Final[Mapping[str, Obstacle]] = {}
REMEMBERED_PREVIEWS: Final = 32
"""A person compares a handful of plans; older ones are outdated anyway."""


@dataclasses.dataclass(frozen=True, slots=True)
class PlanOptions:
    """How plans are made, from the settings.

    Attributes:
        host_memory_bytes: memory of a host for engines, if no CPU device says it; None for no
            limit.
    """

    objective: Objective = Objective.MIN_DEVICES
    time_limit_seconds: float = 10.0
    seed: int = 0
    deterministic: bool = False
    move_price: float = MOVE_PRICE
    host_memory_bytes: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Remembered:
    preview: PlanPreview
    basis: Basis
    allow_outage: bool


_SERVING: Final = (ReplicaState.STARTING, ReplicaState.SERVING)
_SLEEPING: Final = (
    ReplicaState.QUIESCING,
    ReplicaState.FALLING_ASLEEP,
    ReplicaState.SLEEPING,
    ReplicaState.WAKING,
)


def running_placements(
    desired: Sequence[Placement],
    engines: Sequence[Engine],
    *,
    only_live: bool,
    asleep: Collection[str] = (),
) -> tuple[Placement, ...]:
    """Return what runs now, one placement per replica, with sleepers that are wanted awake.

    A model that comes back where its place was given away has none: nothing runs of it.

    Args:
        desired: the applied plan's placements.
        engines: all engines.
        only_live: leave out replicas that were applied and have no process yet (their devices
            refused them, and may do so again), or sleep still: to move them interrupts no request.
        asleep: models that are to sleep; they are left out.
    """
    states = _SERVING if only_live else (*_SERVING, *_SLEEPING)
    desired = [placement for placement in desired if placement.model not in asleep]
    wanted = {placement.replica_id: placement for placement in desired}
    found: dict[str, Placement] = {}
    for engine in engines:
        own = engine.placement
        if engine.state not in states or own.model in asleep:
            continue
        if only_live and engine.refused:
            continue
        planned = wanted.get(own.replica_id)
        if own.replica_id not in found or (planned is not None and same_engine(own, planned)):
            found[own.replica_id] = own
    if not only_live:
        there: dict[str, list[Partition]] = collections.defaultdict(list)
        for replica_id in wanted.keys() & found.keys():
            own = found[replica_id]
            there[own.partition.device_id].append(own.partition)
        for replica_id, placement in wanted.items():
            beside = there[placement.partition.device_id]
            if replica_id not in found and not any(
                overlap(placement.partition, partition) for partition in beside
            ):
                found[replica_id] = placement
                beside.append(placement.partition)
    return tuple(found.values())


def planning_devices(
    devices: Sequence[Device],
    engines: Sequence[tuple[Engine, int]],
    unheard: Sequence[Placement] = (),
) -> tuple[Device, ...]:
    """Return devices as the planner needs them: what our own engines use is not foreign.

    A silent device keeps the replicas that run there, and gets no other.

    Args:
        devices: as observed.
        engines: live engines with the peak memory of their processes in bytes. Processes of engines
            on GPUs take memory of their host, too. Nothing has to be added to a GPU: what its
            driver sees our engines hold is not missing from its free memory.
        unheard: placements that may run on hosts that do not answer.
    """
    known = {engine.placement.replica_id for engine, _ in engines}
    running = collections.Counter(engine.placement.device_id for engine, _ in engines)
    running.update(p.device_id for p in unheard if p.replica_id not in known)
    there = on_each_host(devices, engines, lambda one: one[0].placement.device_id)
    used_on = {host: sum(used for _, used in own) for host, own in there.items()}

    def with_own(device: Device) -> Device:
        device = kept_by_silent(device, running[device.id])
        if device.kind is DeviceKind.GPU:
            return device
        free = min(device.memory_bytes, device.free_bytes + used_on[device.host])
        return dataclasses.replace(device, free_bytes=Bytes(free))

    return tuple(with_own(device) for device in devices)


class PlanMaker:
    """Makes plans, checks them, and remembers what each was made from.

    Args:
        corrections: returns the factors on the rates of profiles whose replicas are slower, by
            profile id.
        effective: returns a spec with the demand that is planned for, if that is measured.
        stale: returns why a profile no longer speaks for what runs now; such a profile is planned
            with the margins of a transferred one.
        architecture_of: of a model, for estimates on devices that are only asked about; None leaves
            those without candidates.
        derivations: of profiles of MPS shares and MIG slices.
        host_memory: returns the memory for engines by name of those hosts that tell it.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        solve: Solve,
        options: PlanOptions,
        corrections: Callable[[], Mapping[str, float]],
        effective: Callable[[ModelSpec], ModelSpec],
        stale: Callable[[Profile], tuple[str, ...]] = lambda _: (),
        architecture_of: ArchitectureOf | None = None,
        derivations: Derivations,
        host_memory: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._host_memory = host_memory
        self._stale = stale
        self._corrections = corrections
        self._effective = effective
        self._architecture_of = architecture_of
        self._derivations = derivations
        self.best = BestProfiles(store.profiles)
        self._demands = KnownDemands()
        self._store = store
        self._clock = clock
        self._solve = solve
        self._options = options
        self._remembered: dict[str, _Remembered] = {}
        self._start_times = StartTimes(store)

    def use(self, options: PlanOptions) -> None:
        """Make plans with these options from now on."""
        self._options = options

    def situation(
        self,
        *,
        devices: Sequence[Device],
        running: Sequence[Placement],
        without_estimates: Collection[str] = (),
        left_out: Collection[str] = (),
        leases: Sequence[Lease] = (),
        sleepers: Collection[Sleeper] = (),
        asleep: Mapping[str, int] = _NOBODY,
        obstacles: Mapping[str, Obstacle] = _NOTHING,
        warnings: Mapping[str, Obstacle] = _NOTHING,
    ) -> Situation:
        """Return what a plan would be made from now.

        Args:
            devices: of all hosts, our own use counted as free.
            running: see `running_placements`.
            without_estimates: models for which only what was measured may be used.
            left_out: models that are not planned at all.
            leases: what is lent to running profile jobs: nothing is placed there.
            sleepers: replicas of models that sleep: they stay where they are.
            asleep: level by model that sleeps; they are not planned either.
            obstacles: what keeps models from running, by name; a model that still can run in some
                form on some hardware is planned for that.
            warnings: what speaks against models that are planned all the same, by name.
        """
        records = tuple(
            dataclasses.replace(record, spec=self._effective(record.spec))
            if record.spec.autoscale is not None
            else record
            for record in self._store.models()
        )
        best = {r.spec.name: self.best.of(r.spec) for r in records}
        # If only plans made by themselves heed an obstacle, all plans rest on the same profiles.
        asked = {name for name, obstacle in obstacles.items() if obstacle.only_by_itself}
        profiles = tuple(
            (name, obstacles[name].open(mine) if name in obstacles.keys() - asked else mine)
            for name, mine in best.items()
        )
        nowhere = asked | {name for name, still_open in profiles if not still_open}
        doubts = ((p.id, self._stale(p)) for _, best in profiles for p in best)
        return Situation(
            records,
            profiles,
            tuple(devices),
            tuple(running),
            frozenset(without_estimates),
            frozenset(left_out),
            tuple((profile_id, reasons) for profile_id, reasons in doubts if reasons),
            leases=tuple(leases),
            sleepers=tuple(sleepers),
            asleep=tuple(sorted(asleep.items())),
            corrections=tuple(sorted(self._corrections().items())),
            obstacles=tuple(o for name, o in obstacles.items() if name in nowhere),
            warnings=tuple(o for name, o in warnings.items() if name not in obstacles),
        )

    async def preview(
        self,
        situation: Situation,
        applied: Plan | None,
        question: PlanQuestion | None = None,
        on_progress: OnProgress | None = None,
        *,
        remember: bool = True,
        may_search: bool = True,
    ) -> PlanPreview:
        """Make a checked plan, with what it changes and other answers; or say why there is none.

        Args:
            situation: what the plan is made from.
            applied: the plan that is applied.
            question: what is asked beside the plan.
            on_progress: called with how far the plan is.
            remember: whether the plan may be applied by its id.
            may_search: whether the compiled search may be used (`PlanRequest.may_search`).

        Raises:
            InputError: a what-if names something that does not exist, or cannot be read; or a model
                that is asked about is in no plan.
            PartitiondError: the checker refuses the solver's plan: a defect, nothing is applied.
        """
        asked = question or PlanQuestion()
        check_asked_models(asked, situation)
        basis_of = situation.basis
        situation, notes = await self._derivations.widened(situation, self._clock.utc_iso())
        models = await self._demands.of(situation)
        request = self._request(situation, models, asked, may_search=may_search)
        specs = tuple(r.spec for r in situation.planned)
        world = World(specs, situation.free_devices, request.objective)
        demands = await demands_of(situation, asked, self._architecture_of, self._clock.utc_iso())
        outcome, answers = await run_flow_async(
            answer(asked, world, request, demands),
            lambda step: self._solved(step, on_progress),
        )
        outcome = with_obstructed(outcome, situation)
        if isinstance(outcome, Infeasible):
            return self._none(request, outcome, answers)
        if notes:
            explained = (*outcome.explanation, *notes)
            outcome = dataclasses.replace(outcome, explanation=explained)
        outcome = beside_sleepers(outcome, situation, applied)
        running, devices = situation.running, outcome.devices
        placements = beside_what_runs(outcome.placements, running, situation.free_devices)
        outcome = dataclasses.replace(outcome, placements=placements)
        outcome = self._numbered(outcome, applied)
        diff = diff_plans(running, placements)
        takes = diff_cost(
            diff, devices, self._start_times.seconds(), gains_of(situation.records, {})
        )
        preview = PlanPreview(outcome, diff, answers=dataclasses.replace(answers, diff=takes))
        if not remember:
            return preview
        applied_id = applied.id if applied is not None else EMPTY_PLAN_ID
        self._remembered.pop(outcome.id, None)  # the newest is the last
        self._remembered[outcome.id] = _Remembered(
            preview, basis_of(applied_id), asked.allow_outage
        )
        while len(self._remembered) > REMEMBERED_PREVIEWS:
            del self._remembered[next(iter(self._remembered))]
        return preview

    async def _solved(self, step: Solving, on_progress: OnProgress | None) -> Plan | Infeasible:
        """Solve one step; return its checked plan."""
        if on_progress is None:
            outcome = await self._solve(step.request)
        else:
            on_progress(PlanProgress(step.title, step.step, step.steps))
            outcome = await self._solve(step.request, on_progress=step_progress(step, on_progress))
        if isinstance(outcome, Infeasible):
            return outcome
        request = step.request
        violations = await asyncio.to_thread(
            check_plan,
            outcome,
            request.models,
            host_memory_bytes=request.host_memory_bytes,
            before=request.before,
        )
        if violations:
            raise PartitiondError(
                f"the plan was refused by its checker: {'; '.join(violations)}.",
                hint="Nothing was changed. Report this as a defect, with `plan --json`.",
                facts={"violations": list(violations)},
            )
        return outcome

    def _numbered(self, made: Plan, applied: Plan | None) -> Plan:
        """Return the plan, under the id of an earlier plan if that one is the same.

        A plan is what it places under an objective: the applied plan, the waiting plan and the
        shown plan have one number as long as they place the same.
        """
        known = [*self.plans(), applied]
        for plan in reversed(known):
            if plan is not None and places_the_same(plan, made):
                return dataclasses.replace(made, id=plan.id)
        return made

    def plans(self) -> tuple[Plan, ...]:
        """Return all remembered plans, oldest first."""
        return tuple(one.preview.plan for one in self._remembered.values())

    def remembers(self, plan_id: str, basis: Basis | None = None) -> PlanPreview | None:
        """Return the plan of an id, made before; with a basis, only if the plan has that."""
        found = self._remembered.get(plan_id)
        if found is None or basis not in (None, found.basis):
            return None
        return found.preview

    def allows_outage(self, plan_id: str) -> bool:
        """Whether the plan was asked for with the permission to leave models without a replica."""
        found = self._remembered.get(plan_id)
        return found is not None and found.allow_outage

    def recall(self, plan_id: str, situation: Situation, applied: Plan | None) -> PlanPreview:
        """Return a plan made before, if nothing that it rests on has changed.

        Raises:
            NotFoundError: there is no such plan.
            ConflictError: the plan is outdated.
        """
        remembered = self._remembered.get(plan_id)
        if remembered is None:
            raise NotFoundError(
                f"there is no plan {plan_id!r}.",
                hint="Plans do not outlive the daemon; make a new one with `partitiond plan`.",
                facts={"plan": plan_id, "plans": list(self._remembered)},
            )
        applied_id = applied.id if applied is not None else EMPTY_PLAN_ID
        if changed := changes_between(remembered.basis, situation.basis(applied_id)):
            raise ConflictError(
                f"{plan_id} is outdated. Changed since it was made: {changed}.",
                hint="Make a new plan with `partitiond plan` and apply that.",
                facts={"plan": plan_id, "changed": changed},
            )
        return remembered.preview

    def next_id(self) -> str:
        """Return a plan's id that was never used before."""
        return f"plan-{self._store.next_counter('plan')}"

    def _request(
        self,
        situation: Situation,
        models: tuple[ModelDemand, ...],
        asked: PlanQuestion,
        *,
        may_search: bool,
    ) -> PlanRequest:
        stated = memory_by_host(
            situation.devices, self._options.host_memory_bytes, self._host_memory()
        )
        told = host_memory(situation.devices, situation.sleepers, stated)
        return PlanRequest(
            devices=situation.free_devices,
            models=models,
            running=situation.running,
            objective=asked.objective or self._options.objective,
            time_limit_seconds=self._options.time_limit_seconds,
            seed=self._options.seed,
            plan_id=self.next_id(),
            created_at=self._clock.utc_iso(),
            deterministic=self._options.deterministic,
            host_memory_bytes=host_memory_beside_jobs(
                told, situation.devices, situation.leases, situation.running
            ),
            move_price=self._options.move_price if asked.move_price is None else asked.move_price,
            allow_outage=asked.allow_outage,
            start_seconds=tuple(sorted(self._start_times.seconds().items())),
            may_search=may_search,
        )

    def _none(self, request: PlanRequest, outcome: Infeasible, answers: PlanAnswers) -> PlanPreview:
        certificate = Certificate(
            objective=request.objective,
            value=0.0,
            bound=0.0,
            gap=0.0,
            status=Status.INFEASIBLE,
            method="none",
            seconds=0.0,
        )
        plan = Plan(
            id=EMPTY_PLAN_ID,
            placements=(),
            devices=request.devices,
            forecasts=(),
            unplaced=(),
            certificate=certificate,
            explanation=outcome.reasons,
            created_at=request.created_at,
        )
        keep = PlanDiff(start=(), stop=(), move=(), keep=request.running)
        return PlanPreview(plan, keep, outcome, answers)


def check_asked_models(asked: PlanQuestion, situation: Situation) -> None:
    """Raises InputError for a question about a model that is in no plan, with the reason."""
    in_what_ifs = (name for text in asked.what_if for name in models_named(text))
    for name in (asked.explain, *in_what_ifs):
        why = situation.why_absent(name) if name else None
        if why is not None:
            raise InputError(why[0], hint=why[1], facts={"model": name})


def with_obstructed(outcome: Plan | Infeasible, situation: Situation) -> Plan | Infeasible:
    """Return the outcome, with the reasons why models that cannot run are not in it."""
    missing = tuple(
        Unplaced(name, obstacle.headline, record.spec.demand.planned_req_per_s, obstacle.hint)
        for record, obstacle in situation.obstructed
        for name in [record.spec.name]
    )
    if isinstance(outcome, Infeasible):
        return Infeasible(
            (*outcome.reasons, *(u.reason for u in missing)),
            (*outcome.remedies, *(u.remedy for u in missing)),
        )
    planned = {record.spec.name for record in situation.planned}
    warnings = [str(warning) for warning in situation.warnings if warning.model in planned]
    nothing = (
        ModelForecast(u.model, 0, 0.0, u.missing_req_per_s, None, None, None) for u in missing
    )
    return dataclasses.replace(
        outcome,
        forecasts=(*outcome.forecasts, *nothing),
        unplaced=(*outcome.unplaced, *missing),
        explanation=(*outcome.explanation, *warnings, *(u.reason for u in missing)),
    )


def places_the_same(known: Plan, made: Plan) -> bool:
    """Return whether a plan is one that is known."""

    def places(plan: Plan) -> set[tuple[str, str]]:  # compared first: it takes far less time
        return {(placement.replica_id, placement.device_id) for placement in plan.wanted}

    return (
        known.certificate.objective is made.certificate.objective
        and places(known) == places(made)
        and made.repeats(known)
    )


def without_model(plan: Plan, model: str, plan_id: str, created_at: str) -> Plan:
    """Return the plan without one model; the others stay where they are."""
    return dataclasses.replace(
        plan,
        id=plan_id,
        placements=tuple(p for p in plan.placements if p.model != model),
        asleep=tuple(p for p in plan.asleep if p.model != model),
        forecasts=tuple(f for f in plan.forecasts if f.model != model),
        unplaced=tuple(u for u in plan.unplaced if u.model != model),
        explanation=(
            *plan.explanation,
            f"{model} was removed afterwards; the certificate speaks of the plan before.",
        ),
        created_at=created_at,
    )


def with_places(plan: Plan, before: Plan, model: str, *, plan_id: str, at: str, what: str) -> Plan:
    """Return the plan with one model where and as it was in an earlier plan."""
    smaller = without_model(plan, model, plan_id, at)
    return dataclasses.replace(
        smaller,
        placements=(*smaller.placements, *(p for p in before.placements if p.model == model)),
        forecasts=(*smaller.forecasts, *(f for f in before.forecasts if f.model == model)),
        explanation=(*plan.explanation, f"{model} went back to {what}, where it was."),
    )
