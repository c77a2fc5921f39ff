"""Replaces releases of models: a new one takes the old one's place, or the model goes back.

A changed source, revision or engine option makes a new release (`core.replica.releases`). The next
plan has its engines; the reconciler starts them beside the old ones if there is room. After each
pass it is checked whether the release has come, or has failed so often that its model goes back.
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence

from partitiond.controller.journal import Journal
from partitiond.controller.plans.use_cases import Plans
from partitiond.controller.runtime.diagnosis import first_line
from partitiond.controller.runtime.loop import Controller
from partitiond.controller.runtime.watching import ModelFiles, engine_bytes
from partitiond.core.errors import ConflictError, NotFoundError
from partitiond.core.hardware.room import fits
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import Placement, Plan
from partitiond.core.replica.observation import ObservedReplica
from partitiond.core.replica.releases import (
    ROLL_BACK_AFTER,
    Release,
    ReleaseState,
    RolloutVerdict,
    gone_back,
    judge,
    releases_of,
    same_release,
    way_back,
)
from partitiond.platform.fault_points import FaultPoint, reached
from partitiond.ports import Clock
from partitiond.store import Store

PLANS_LOOKED_AT = 20
"""Number of applied plans that are searched for the places of an earlier release. Chosen."""


class ReleaseUseCases:
    """Keeps the releases of models, and judges those that are coming.

    Args:
        restore: gives a model the engines of an earlier release (`Registry.restore`).
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        journal: Journal,
        controller: Controller,
        plans: Plans,
        files: ModelFiles,
        restore: Callable[[ModelRecord, ModelSpec], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._journal = journal
        self._controller = controller
        self._plans = plans
        self._files = files
        self._restore = restore
        self._resumed = False
        self._known: dict[str, tuple[Release, ...]] = {}
        for release in store.releases():
            self._known[release.model] = (*self._known.get(release.model, ()), release)

    def coming(self) -> Collection[str]:
        """Models of which a release is coming: a plan may move their replicas by itself."""
        return {model for model in self._known if self._open(model) is not None}

    def spec_for(self, spec: ModelSpec, placement: Placement) -> ModelSpec:
        """Return the specification that a placement was planned with, maybe an earlier one."""
        wanted, variant = placement.candidate.release, placement.candidate.variant
        known = self._known.get(spec.name)
        if not known or not wanted or releases_of(spec).get(variant) == wanted:
            return spec
        for release in known:
            if releases_of(release.spec).get(variant) == wanted:
                return gone_back(spec, release.spec)
        return spec

    def begins(self, old: ModelRecord, new: ModelSpec) -> None:
        """Keep the release of a model whose specification is about to be replaced: the way back has
        to exist from then on, even if the daemon is killed at once.
        """
        name = new.name
        if same_release(old.spec, new):
            return
        if not any(same_release(row.spec, old.spec) for row in self._store.releases(name)):
            served = any(p.model == name for p in self._controller.desired)
            state = ReleaseState.SERVING if served else ReleaseState.REPLACED
            self._put(Release(name, old.version, old.updated_at, state, old.spec))
        reached(FaultPoint.RELEASE_KEPT)

    def began(self, old: ModelRecord, new: ModelRecord) -> None:
        """Note that a model's specification was replaced: its new release is coming."""
        if same_release(old.spec, new.spec):
            return
        name = new.spec.name
        rows = self._store.releases(name)
        for row in rows:
            if row.state is ReleaseState.COMING:
                self._put(dataclasses.replace(row, at=self._now(), state=ReleaseState.FAILED))
        same = next((row for row in rows if same_release(row.spec, new.spec)), None)
        version = same.version if same is not None else new.version
        self._put(Release(name, version, self._now(), ReleaseState.COMING, new.spec))
        self._plans.chain.changed()

    def forget(self, model: str) -> None:
        """Forget the releases of a model that is gone."""
        if self._known.pop(model, None):
            self._store.forget_releases(model)

    def settle(self) -> None:
        """Find which releases have come, and which will not; called after each pass of the loop."""
        if not self._resumed:
            self._resumed = True
            self._resume()
        models = self.coming()
        if not models:
            return
        desired = self._controller.desired
        replicas = [engine.observed() for engine in self._controller.engines]
        for model in models:
            release = self._open(model)
            assert release is not None
            verdict = judge(release, desired, replicas, self._files.failures)
            if verdict is RolloutVerdict.ARRIVED:
                self._arrived(release)
            elif verdict is RolloutVerdict.GO_BACK:
                self._go_back(release, self._why(model, replicas))

    def _why(self, model: str, replicas: Sequence[ObservedReplica]) -> str:
        if problem := self._files.problem(model):
            return first_line(problem)
        own = [r for r in replicas if r.placement.model == model and r.last_error]
        return first_line(own[-1].last_error) if own else "it failed"

    def _resume(self) -> None:
        """Finish what the previous daemon began: it stores models before or after their rows."""
        for record in self._store.models():
            rows = self._known.get(record.spec.name, ())
            now = next((row for row in rows if same_release(row.spec, record.spec)), None)
            target = self._open(record.spec.name)
            if rows and now is None:  # it was replaced, and its new release has no row yet
                if target is not None:
                    self._put(dataclasses.replace(target, state=ReleaseState.FAILED))
                self._put(_coming(record, self._now()))
            elif target is None and now is not None and now.state is ReleaseState.FAILED:
                target = way_back(rows, now.version)
                if target is not None:
                    self._return_to(target)
            elif target is not None and target is not now:
                self._return_to(target)

    def _arrived(self, release: Release) -> None:
        for row in self._known[release.model]:
            if row.state is ReleaseState.SERVING:
                self._put(dataclasses.replace(row, at=self._now(), state=ReleaseState.REPLACED))
        self._put(dataclasses.replace(release, at=self._now(), state=ReleaseState.SERVING))
        self._journal.note(
            "model-released", release.model, f"all replicas are of version {release.version} now."
        )

    def _go_back(self, release: Release, why: str) -> None:
        self._put(dataclasses.replace(release, at=self._now(), state=ReleaseState.FAILED))
        target = way_back(self._known[release.model], release.version)
        failed = f"version {release.version} failed to come {ROLL_BACK_AFTER} times ({why})"
        if target is None:
            self._journal.note("model-failed", release.model, f"{failed}; nothing served before.")
            return
        self._journal.note(
            "model-rolled-back", release.model, f"{failed}; back to version {target.version}."
        )
        self._return_to(target)

    def _return_to(self, target: Release) -> None:
        """Return to the specification of an earlier release, and to its places if there is room."""
        record = self._store.model(target.model)
        self._put(dataclasses.replace(target, at=self._now(), state=ReleaseState.COMING))
        reached(FaultPoint.RELEASE_WANTED)
        self._restore(record, gone_back(record.spec, target.spec))
        self._plans.chain.changed()
        plan = self._controller.plan
        before = _plan_with(target, self._store.applied_plans(PLANS_LOOKED_AT))
        if plan is not None and before is not None and _has_room(plan, before, target.model):
            self._plans.take_places(target.model, before, f"version {target.version}")
        self._controller.wake()

    # -- history and roll-back -------------------------------------------------------------

    def history(self, model: str) -> Sequence[Release]:
        """Releases of a model, newest first. Raises NotFoundError."""
        record = self._store.model(model)
        if known := self._known.get(model):
            return tuple(sorted(known, key=lambda r: -r.version))
        planned = any(p.model == model for p in self._controller.desired)
        state = ReleaseState.SERVING if planned else ReleaseState.COMING
        return (Release(model, record.version, record.updated_at, state, record.spec),)

    async def roll_back(self, model: str, version: int | None = None) -> Release:
        """Go back to a release, by default to the one before; return the one that is to serve.

        Raises:
            NotFoundError: there is no such model, or release.
            ConflictError: there is no release to go back to, or the release serves already.
        """
        record = self._store.model(model)
        now = next((r for r in self.history(model) if same_release(r.spec, record.spec)), None)
        target = self._asked(model, version, now)
        if now is not None and now.version == target.version:
            raise ConflictError(
                f"{model} is at version {target.version} already.",
                hint=f"`partitiond models show {model}` lists the others.",
            )
        if now is not None:
            self._put(dataclasses.replace(now, at=self._now(), state=_left_as(now.state)))
        self._journal.note(
            "model-rolled-back", model, f"back to version {target.version}, as asked."
        )
        self._return_to(target)
        return next(r for r in self.history(model) if r.version == target.version)

    def _asked(self, model: str, version: int | None, now: Release | None) -> Release:
        rows = self.history(model)
        if version is not None:
            found = next((row for row in rows if row.version == version), None)
            if found is None:
                raise NotFoundError(
                    f"{model} has no release of version {version}.",
                    hint=f"`partitiond models show {model}` lists what there is.",
                    facts={"model": model, "version": version},
                )
            return found
        target = way_back(rows, now.version if now is not None else -1)
        if target is None:
            raise ConflictError(
                f"{model} has no earlier release that served.",
                hint=f"`partitiond models show {model}` lists what there is.",
                facts={"model": model},
            )
        return target

    # -- the rows --------------------------------------------------------------------------

    def _open(self, model: str) -> Release | None:
        rows = self._known.get(model, ())
        return next((row for row in rows if row.state is ReleaseState.COMING), None)

    def _put(self, release: Release) -> None:
        self._store.put_release(release)
        self._known[release.model] = tuple(self._store.releases(release.model))

    def _now(self) -> str:
        return self._clock.utc_iso()


def _left_as(state: ReleaseState) -> ReleaseState:
    """Return the state that a roll-back leaves a release in."""
    return ReleaseState.FAILED if state is ReleaseState.COMING else state


def _coming(record: ModelRecord, at: str) -> Release:
    return Release(record.spec.name, record.version, at, ReleaseState.COMING, record.spec)


def _plan_with(release: Release, plans: Sequence[Plan]) -> Plan | None:
    """Return the first of these plans, newest first, in which the model was of that release."""
    digests = releases_of(release.spec)
    for plan in plans:
        own = [p.candidate for p in plan.placements if p.model == release.model]
        if own and all(c.release == digests.get(c.variant) for c in own):
            return plan
    return None


def _has_room(plan: Plan, before: Plan, model: str) -> bool:
    """Whether a model's places of an earlier plan are free in this plan, its own places aside."""
    room = {device.id: engine_bytes(device) for device in plan.devices}
    held = [p.partition for p in plan.wanted if p.model != model]
    for placement in before.placements:
        if placement.model != model:
            continue
        free = room.get(placement.device_id)
        if free is None or not fits(placement.partition, held, free):
            return False
        held.append(placement.partition)
    return True
