"""Plans on request: what goes in, what comes out, and which of them can still be applied."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final

from partitiond.controller.derived import Derivations
from partitiond.controller.engines import Engine
from partitiond.controller.expectations import stakes_of
from partitiond.controller.plan_sleepers import beside_sleepers
from partitiond.controller.plan_worlds import (
    ArchitectureOf,
    OnProgress,
    demands_of,
    proven_impossible,
    told,
    usable,
)
from partitiond.controller.situation import Situation
from partitiond.controller.start_times import StartTimes
from partitiond.controller.targets import best_profiles
from partitiond.core.beside import beside_what_runs
from partitiond.core.errors import ConflictError, NotFoundError, PartitiondError
from partitiond.core.hardware import Device, DeviceKind
from partitiond.core.plan import (
    EMPTY_PLAN_ID,
    Certificate,
    Infeasible,
    Objective,
    Placement,
    Plan,
    PlanDiff,
    Status,
    diff_plans,
    same_engine,
)
from partitiond.core.plan_answers import PlanAnswers, PlanProgress, PlanQuestion
from partitiond.core.plan_diff import diff_cost
from partitiond.core.profile import Profile
from partitiond.core.replica import ReplicaState
from partitiond.core.sleep import Sleeper, host_memory
from partitiond.core.spec import ModelSpec
from partitiond.core.units import Bytes
from partitiond.planner.candidates import candidates_for
from partitiond.planner.check import check_plan
from partitiond.planner.flow import Solving, run_flow_async
from partitiond.planner.instance import PlanRequest, usual_budget
from partitiond.planner.questions import answer
from partitiond.planner.whatif import World
from partitiond.ports import Clock, PlanPreview, Store

Solve = Callable[..., Awaitable[Plan | Infeasible]]
"""A `PlanRequest` solved; `on_progress` may be given, and is called with `planner.Progress`."""
_NOBODY: Final[Mapping[str, int]] = {}
REMEMBERED_PREVIEWS: Final = 32
"""A person compares a handful of plans; older ones are outdated anyway."""


@dataclasses.dataclass(frozen=True, slots=True)
class PlanOptions:
    """How plans are made, from the settings.

    Attributes:
        host_memory_bytes: memory of this host for engines, where no CPU device says it; None for
            no limit.
    """

    objective: Objective = Objective.MIN_DEVICES
    time_limit_seconds: float = 10.0
    seed: int = 0
    deterministic: bool = False
    workers: int = 1
    move_budget: float | None = None
    host_memory_bytes: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Remembered:
    preview: PlanPreview
    fingerprint: str


_SERVING: Final = (ReplicaState.STARTING, ReplicaState.SERVING)
_SLEEPING: Final = (
    ReplicaState.DROWSY,
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
    """What runs now, one placement per replica; what sleeps and is wanted awake is among it.

    Args:
        desired: the applied plan's placements.
        engines: all engines.
        only_live: leave out what was applied and has no process yet, or sleeps still: to move it
            interrupts nobody.
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
        planned = wanted.get(own.replica_id)
        if own.replica_id not in found or (planned is not None and same_engine(own, planned)):
            found[own.replica_id] = own
    if not only_live:
        for replica_id, placement in wanted.items():
            found.setdefault(replica_id, placement)
    return tuple(found.values())


def planning_devices(
    devices: Sequence[Device], engines: Sequence[tuple[Engine, int]]
) -> tuple[Device, ...]:
    """Devices as the planner needs them: what our own engines use is not foreign.

    Args:
        devices: as observed.
        engines: live engines with the peak memory of their processes in bytes. Those of engines
            on GPUs are in the host's memory all the same. Of a GPU nothing has to be added: what
            its driver sees our engines hold is not among what is missing from its free memory.
    """
    in_processes = sum(used for _, used in engines)

    def with_own(device: Device) -> Device:
        if device.kind is DeviceKind.GPU:
            return device
        free = min(device.memory_bytes, device.free_bytes + in_processes)
        return dataclasses.replace(device, free_bytes=Bytes(free))

    return tuple(with_own(device) for device in devices)


class PlanDesk:
    """Makes plans, checks them, and remembers what each was made from.

    Attributes:
        corrections: factor on the rates of profiles whose replicas are slower, by profile id.
        effective: a spec with the demand that is planned for, where that is measured.

    Args:
        stale: why a profile no longer speaks for what runs now; such a one is planned with the
            margins of a transferred profile.
        architecture_of: of a model, for estimates on devices that are only asked about and for
            profiles of MPS shares and MIG slices; None leaves those without candidates.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        solve: Solve,
        options: PlanOptions,
        stale: Callable[[Profile], tuple[str, ...]] = lambda _: (),
        architecture_of: ArchitectureOf | None = None,
    ) -> None:
        self._stale = stale
        self.corrections: Callable[[], Mapping[str, float]] = dict
        self.effective: Callable[[ModelSpec], ModelSpec] = lambda spec: spec
        self._architecture_of = architecture_of
        self._derivations = Derivations(architecture_of)
        self._store = store
        self._clock = clock
        self._solve = solve
        self._options = options
        self._remembered: dict[str, _Remembered] = {}
        self._start_times = StartTimes(store)

    def use(self, options: PlanOptions) -> None:
        """Plans from now on are made with these options."""
        self._options = options

    def situation(
        self,
        *,
        devices: Sequence[Device],
        running: Sequence[Placement],
        without_estimates: Collection[str] = (),
        left_out: Collection[str] = (),
        sleepers: Collection[Sleeper] = (),
        asleep: Mapping[str, int] = _NOBODY,
    ) -> Situation:
        """What a plan would be made from now.

        Args:
            devices: of this host, our own use counted as free.
            running: see `running_placements`.
            without_estimates: models for which only what was measured may be used.
            left_out: models that are not planned at all.
            sleepers: replicas of models that sleep: they stay where they are.
            asleep: level by model that sleeps; they are not planned either.
        """
        records = tuple(
            dataclasses.replace(record, spec=self.effective(record.spec))
            if record.spec.autoscale is not None
            else record
            for record in self._store.models()
        )
        profiles = tuple(
            (r.spec.name, best_profiles(r.spec, self._store.profiles(r.spec.name))) for r in records
        )
        doubts = ((p.id, self._stale(p)) for _, best in profiles for p in best)
        return Situation(
            records,
            profiles,
            tuple(devices),
            tuple(running),
            frozenset(without_estimates),
            frozenset(left_out),
            tuple((profile_id, reasons) for profile_id, reasons in doubts if reasons),
            sleepers=tuple(sleepers),
            asleep=tuple(sorted(asleep.items())),
            corrections=tuple(sorted(self.corrections().items())),
        )

    async def preview(
        self,
        situation: Situation,
        applied: Plan | None,
        question: PlanQuestion | None = None,
        on_progress: OnProgress | None = None,
        *,
        remember: bool = True,
    ) -> PlanPreview:
        """A checked plan, what it changes and what else was asked; or why there is none.

        Args:
            situation: what it is made from.
            applied: the plan that is applied.
            question: what is asked beside the plan.
            on_progress: told how far it is.
            remember: it may be applied by its id.

        Raises:
            InputError: a what-if names what is not there, or cannot be read.
            PartitiondError: the checker refuses the solver's plan: a defect, nothing is applied.
        """
        asked = question or PlanQuestion()
        fingerprint_of = situation.fingerprint
        situation, notes = await self._derivations.widened(situation, self._clock.utc_iso())
        request = self._request(situation, asked.objective)
        specs = tuple(r.spec for r in situation.planned)
        world = World(specs, situation.free_devices, request.objective)
        demands = await demands_of(situation, asked, self._architecture_of, self._clock.utc_iso())
        outcome, answers = await run_flow_async(
            answer(asked, world, request, demands),
            lambda step: self._solved(step, on_progress),
            lambda one: asyncio.to_thread(proven_impossible, one),
        )
        if isinstance(outcome, Infeasible):
            return self._none(request, outcome, answers)
        if notes:
            explained = (*outcome.explanation, *notes)
            outcome = dataclasses.replace(outcome, explanation=explained)
        outcome = beside_sleepers(outcome, situation, applied)
        running, devices = situation.running, outcome.devices
        placements = beside_what_runs(outcome.placements, running, devices)
        outcome = dataclasses.replace(outcome, placements=placements)
        diff = diff_plans(running, placements)
        takes = diff_cost(
            diff, devices, self._start_times.seconds(), stakes_of(situation.records, {})
        )
        preview = PlanPreview(outcome, diff, answers=dataclasses.replace(answers, diff=takes))
        if not remember:
            return preview
        applied_id = applied.id if applied is not None else EMPTY_PLAN_ID
        self._remembered[outcome.id] = _Remembered(preview, fingerprint_of(applied_id))
        while len(self._remembered) > REMEMBERED_PREVIEWS:
            del self._remembered[next(iter(self._remembered))]
        return preview

    async def _solved(self, step: Solving, on_progress: OnProgress | None) -> Plan | Infeasible:
        """A checked plan."""
        if on_progress is None:
            outcome = await self._solve(step.request)
        else:
            on_progress(PlanProgress(step.title, step.step, step.steps))
            outcome = await self._solve(step.request, on_progress=told(step, on_progress))
        if isinstance(outcome, Infeasible):
            return outcome
        request = step.request
        violations = check_plan(
            outcome, request.models, host_memory_bytes=request.host_memory_bytes
        )
        if violations:
            raise PartitiondError(
                f"the plan was refused by its checker: {'; '.join(violations)}.",
                hint="Nothing was changed. Report this as a defect, with `plan --json`.",
                facts={"violations": list(violations)},
            )
        return outcome

    def recall(self, plan_id: str, situation: Situation, applied: Plan | None) -> PlanPreview:
        """A plan made before, if nothing it rests on has changed.

        Raises:
            NotFoundError: there is no such plan.
            ConflictError: it is outdated.
        """
        remembered = self._remembered.get(plan_id)
        if remembered is None:
            raise NotFoundError(
                f"there is no plan {plan_id!r}.",
                hint="Plans do not outlive the daemon; make a new one with `partitiond plan`.",
                facts={"plan": plan_id},
            )
        applied_id = applied.id if applied is not None else EMPTY_PLAN_ID
        if remembered.fingerprint != situation.fingerprint(applied_id):
            raise ConflictError(
                f"{plan_id} is outdated: models, profiles, devices or the applied plan changed.",
                hint="Make a new plan with `partitiond plan` and apply that.",
                facts={"plan": plan_id},
            )
        return remembered.preview

    def next_id(self) -> str:
        """A plan's name, never used before."""
        return f"plan-{self._store.next_counter('plan')}"

    def _request(self, situation: Situation, objective: Objective | None) -> PlanRequest:
        hardware = tuple(sorted({device.hardware for device in situation.devices}))
        profiles, stale = dict(situation.profiles), dict(situation.stale)
        corrections = dict(situation.corrections)
        return PlanRequest(
            devices=situation.free_devices,
            models=tuple(
                candidates_for(
                    record.spec,
                    usable(profiles[record.spec.name], record, situation),
                    hardware,
                    stale,
                    corrections,
                )
                for record in situation.planned
            ),
            running=situation.running,
            objective=objective or self._options.objective,
            time_limit_seconds=self._options.time_limit_seconds,
            seed=self._options.seed,
            plan_id=self.next_id(),
            created_at=self._clock.utc_iso(),
            deterministic=self._options.deterministic,
            workers=self._options.workers,
            host_memory_bytes=host_memory(
                situation.devices, situation.sleepers, self._options.host_memory_bytes
            ),
            move_budget=usual_budget(self._options.move_budget, len(situation.running)),
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


def without_model(plan: Plan, model: str, plan_id: str, created_at: str) -> Plan:
    """The plan without one model; the others stay where they are."""
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
    """The plan with one model where and as it was in an earlier one."""
    smaller = without_model(plan, model, plan_id, at)
    return dataclasses.replace(
        smaller,
        placements=(*smaller.placements, *(p for p in before.placements if p.model == model)),
        forecasts=(*smaller.forecasts, *(f for f in before.forecasts if f.model == model)),
        explanation=(*plan.explanation, f"{model} went back to {what}, where it was."),
    )
