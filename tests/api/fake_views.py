"""Fakes the progress of a plan, drift, releases and scaling: they are as a test sets them."""

import dataclasses
from collections.abc import AsyncGenerator, Sequence

from partitiond.controller.watchers import Watchers
from partitiond.core.drift.correction import Correction
from partitiond.core.drift.detection import Figure, Finding, LedgerEntry, Verdict
from partitiond.core.errors import ConflictError, NotFoundError
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.core.profile.record import ProfileKind
from partitiond.core.replica.convergence import Convergence, PlanState
from partitiond.core.replica.releases import Release, ReleaseState
from partitiond.core.views.drift import DriftReport, Remeasure, ReplicaDrift
from partitiond.core.views.scaling import ScalingView


class FakeConvergence:
    """Fakes `api.given.Convergences`: each plan but "plan-9" is as told."""

    def __init__(self) -> None:
        self.told = Convergence("plan-1", PlanState.CONVERGED, 1, 1, 0, 1.0, "")
        self.watchers = Watchers()

    def tell(self, told: Convergence) -> None:
        self.told = told
        self.watchers.changed()

    def now(self, plan_id: str | None = None) -> Convergence:
        if plan_id == "plan-9":
            raise NotFoundError(f"{plan_id} is not applied.", hint="`partitiond apply`.")
        return self.told

    def watch(self, plan_id: str | None = None) -> AsyncGenerator[Convergence, None]:
        self.now(plan_id)
        return self.watchers.watch(
            lambda: self.told, lambda now: now.state is not PlanState.CONVERGING
        )


FINDING = Finding(Figure.PACE, 0.010, 0.013, 0.07, Verdict.SLOWER, 1.3, 1.25, 1.35, 4)
ENTRY = LedgerEntry(
    at="2030-01-01T00:00:00Z",
    model="a",
    replica_id="a-1",
    device_id="cpu",
    hardware="cpu-test-2c",
    profile_id="profile-a",
    profile_kind=ProfileKind.MEASURED,
    requests=30,
    seconds=20.0,
    batch=2.5,
    prompt_tokens=64.0,
    output_tokens=32.0,
    sharing=1.0,
    findings=(FINDING,),
)
CORRECTION = Correction(
    "profile-a", "a", "cpu-test-2c", 0.75, 1.3, 1.25, 1.35, 1, "2030-01-01T00:00:00Z"
)


class FakeDrift:
    """Fakes `api.given.DriftControl`."""

    def __init__(self) -> None:
        self.corrections = {CORRECTION.profile_id: CORRECTION}

    def report(self) -> DriftReport:
        replica = ReplicaDrift("a-1", "a-1", "a", "cpu", "slower", ENTRY.sentence, 7, ENTRY)
        waits = Remeasure("profile-a", "a", "job-1", "waits for a quiet time")
        return DriftReport((replica,), tuple(self.corrections.values()), (waits,), 30)

    def lift(self, profile_id: str) -> Correction:
        if profile_id not in self.corrections:
            raise NotFoundError(f"no figures of a profile {profile_id} are corrected.")
        return self.corrections.pop(profile_id)


SPEC = ModelSpec("a", ModelSource(SourceKind.HUB, "org/a", "r1"))
NEWER = dataclasses.replace(SPEC, source=ModelSource(SourceKind.HUB, "org/a", "r2"))
ROWS = (
    Release("a", 2, "2030-01-02T00:00:00Z", ReleaseState.SERVING, NEWER),
    Release("a", 1, "2030-01-01T00:00:00Z", ReleaseState.REPLACED, SPEC),
)


class FakeReleases:
    """Fakes `api.given.Releases`."""

    def history(self, model: str) -> Sequence[Release]:
        if model == "nobody":
            raise NotFoundError(f"there is no model {model}.", hint="`partitiond models`.")
        return ROWS

    async def roll_back(self, model: str, version: int | None = None) -> Release:
        wanted = version or 1
        found = next((row for row in self.history(model) if row.version == wanted), None)
        if found is None:
            raise NotFoundError(f"a has no release of version {wanted}.", hint="See its history.")
        if found.state is ReleaseState.SERVING:
            raise ConflictError(f"a is at version {wanted} already.", hint="See its history.")
        return dataclasses.replace(found, state=ReleaseState.COMING)


VIEW = ScalingView(
    model="a",
    min_replicas=0,
    max_replicas=2,
    scale_to_zero_seconds=600.0,
    scaled_to_zero=False,
    replicas_serving=1,
    replicas_planned=1,
    measured_req_per_s=1.5,
    forecast_req_per_s=1.4,
    upper_req_per_s=2.0,
    planned_req_per_s=2.2,
    capacity_req_per_s=3.0,
    idle_seconds=0.5,
    waiting=0,
    changed_at="2030-01-01T00:00:00Z",
    reason="up to 2 req/s are expected or queue, 1 were planned",
)
AT_ZERO = dataclasses.replace(
    VIEW,
    model="b",
    scaled_to_zero=True,
    replicas_serving=0,
    replicas_planned=0,
    measured_req_per_s=None,
)


class FakeScaling:
    """Fakes `api.given.Scalings`."""

    def views(self) -> Sequence[ScalingView]:
        return (VIEW, AT_ZERO)

    def view(self, model: str) -> ScalingView:
        for found in self.views():
            if found.model == model:
                return found
        raise NotFoundError(f"there is no model {model!r}.")
