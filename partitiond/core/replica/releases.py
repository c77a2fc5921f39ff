"""Tracks the releases of a model: which one serves, and which one to go back to. Pure.

A release is the part of a specification by which engines differ: source and revision, weights,
engine options, kind of engine, variants, isolation group. Demand, SLO, placement rules, names and
limits belong to the model, and stay as they are when the model goes back to an earlier release.
"""

import dataclasses
import enum
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from partitiond.core.model.spec import EngineOptions, ModelSpec
from partitiond.core.plan.record import Placement, same_engine
from partitiond.core.replica.observation import HOPELESS_FAILURES, ObservedReplica
from partitiond.core.replica.states import ReplicaState

ROLL_BACK_AFTER: Final = HOPELESS_FAILURES
"""Failed starts of a new release, or of fetches of its files, in a row before it is given up."""
_BROKEN: Final = frozenset({ReplicaState.FAILING, ReplicaState.FAILED})
"""A release that does not come goes back from its last failure on, as what waits for it is told."""


class ReleaseState(enum.StrEnum):
    """Where a release is in its life."""

    COMING = "coming"
    """It is to replace the release that serves; not all of its replicas serve yet."""
    SERVING = "serving"
    REPLACED = "replaced"
    """It served, and another release replaced it."""
    FAILED = "failed"
    """Its engines did not become ready, or it was given up before they did."""


@dataclasses.dataclass(frozen=True, slots=True)
class Release:
    """One release of a model.

    Attributes:
        version: of the model's specification with which it came.
        at: when its state last changed, ISO 8601 UTC.
    """

    model: str
    version: int
    at: str
    state: ReleaseState
    spec: ModelSpec


def engine_parts(spec: ModelSpec) -> tuple[object, ...]:
    """Return the part of what an engine of this form is started with that the user chose.

    Sleep mode may change while an engine runs: an engine that was started without it is stopped
    instead of put to sleep, and has it from its next start on.
    """
    engine = dataclasses.replace(spec.engine, sleep_mode=False)
    return (spec.source, spec.weights, engine, spec.engine_kind, spec.isolation_group)


def release_of(form: ModelSpec) -> str:
    """Return the digest of a form of a model (`ModelSpec.as_variant`): the same for the same
    engines.

    Options with default values are left out, so that a later version with more options finds the
    same digest. The defaults are those that options first had: engines keep running over an upgrade
    that changes one.
    """
    engine = dataclasses.replace(form.engine, sleep_mode=False)
    usual = EngineOptions(dtype="bfloat16")
    options = [
        f"{field.name}={getattr(engine, field.name)!r}"
        for field in dataclasses.fields(EngineOptions)
        if getattr(engine, field.name) != getattr(usual, field.name)
    ]
    if form.isolation_group:
        options.append(f"isolation_group={form.isolation_group!r}")
    source = (form.source.kind.value, form.source.ref, form.source.revision)
    parts = repr((source, form.weights.value, form.engine_kind, options))
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def same_release(one: ModelSpec, other: ModelSpec) -> bool:
    """Return whether the engines of all forms of both are made of the same parts."""
    return releases_of(one) == releases_of(other)


def releases_of(spec: ModelSpec) -> dict[str, str]:
    """Return the digest by form: the model itself (""), and its variants."""
    names = ("", *(variant.name for variant in spec.variants))
    return {name: release_of(spec.as_variant(name)) for name in names}


def gone_back(spec: ModelSpec, release: ModelSpec) -> ModelSpec:
    """Return the specification with the engines of an earlier release."""
    sleeps = release.engine.sleep_mode
    return dataclasses.replace(
        spec,
        source=release.source,
        weights=release.weights,
        engine=release.engine,
        engine_kind=release.engine_kind,
        variants=release.variants,
        isolation_group=release.isolation_group,
        sleep_after_seconds=spec.sleep_after_seconds if sleeps else None,
    )


class RolloutVerdict(enum.Enum):
    """Decision about a release that is coming."""

    WAIT = "wait"
    ARRIVED = "arrived"
    GO_BACK = "go-back"


def judge(
    release: Release,
    desired: Sequence[Placement],
    replicas: Sequence[ObservedReplica],
    unfetched: Mapping[str, int],
) -> RolloutVerdict:
    """Decide whether a coming release has arrived, or will not.

    It has arrived when all wanted replicas of the model are of it and serve. It will not when one
    failed, or its files could not be fetched, `ROLL_BACK_AFTER` times in a row, and none serves.

    Args:
        desired: placements of the applied plan.
        replicas: all engines.
        unfetched: failed fetches of its files in a row, by form (`Placement.form`).
    """
    digests = releases_of(release.spec)

    def is_of_it(placement: Placement) -> bool:
        candidate = placement.candidate
        same = candidate.release == digests.get(candidate.variant)
        return placement.model == release.model and same

    wanted = [p for p in desired if p.model == release.model]
    own = [r for r in replicas if is_of_it(r.placement)]
    serving = [r for r in own if r.state is ReplicaState.SERVING]
    if wanted and all(is_of_it(p) and _is_served(p, serving) for p in wanted):
        return RolloutVerdict.ARRIVED
    failed = any(
        r.state in _BROKEN and r.failures >= ROLL_BACK_AFTER and not r.refused for r in own
    )
    missing = any(unfetched.get(p.form, 0) >= ROLL_BACK_AFTER for p in wanted if is_of_it(p))
    return RolloutVerdict.GO_BACK if (failed or missing) and not serving else RolloutVerdict.WAIT


def _is_served(placement: Placement, serving: Iterable[ObservedReplica]) -> bool:
    return any(
        r.replica_id == placement.replica_id and same_engine(r.placement, placement)
        for r in serving
    )


def way_back(releases: Iterable[Release], from_version: int) -> Release | None:
    """Return the release to go back to: the one that serves, else the last that did; None without
    one.
    """
    others = [r for r in releases if r.version != from_version]
    for state in (ReleaseState.SERVING, ReleaseState.REPLACED):
        found = [r for r in others if r.state is state]
        if found:
            return max(found, key=lambda r: (r.at, r.version))
    return None
