"""Steps between MIG geometries pass a driver that refuses, and destroy the least of all."""

import collections
import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.mig import changes
from partitiond.core.mig.changes import MigLayout, MigPermissions, PresentInstance
from partitiond.core.mig.geometry import Place, starts_of

PROFILES = HARDWARE["a100-80gb"].mig_profiles
SPOTS = tuple((p.name, s, p.memory_slices) for p in PROFILES for s in starts_of(p))
MOST = {p.name: p.max_instances for p in PROFILES}


class Driver:
    """A GPU as its driver minds it: refuses what cannot be, with a word."""

    def __init__(self, state: MigLayout) -> None:
        self.enabled = state.enabled
        self.compute = {i.place: i.compute_instances for i in state.instances}
        self.whole = {i.place: i.whole for i in state.instances}
        self.busy = {i.place for i in state.instances if i.busy}

    def do(self, step: changes.Step) -> None:
        match step:
            case changes.DestroyComputeInstance(place=place):
                assert place not in self.busy, "in use"
                assert self.compute[place] > 0, "there is none"
                self.compute[place], self.whole[place] = 0, False
            case changes.DestroyGpuInstance(place=place):
                assert self.compute[place] == 0, "compute instances are there"
                del self.compute[place], self.whole[place]
            case changes.CreateGpuInstance(place=place):
                assert self.enabled, "MIG is off"
                assert place in SPOTS, "no such placement"
                assert not covered(place) & {s for p in self.compute for s in covered(p)}, "taken"
                alike = sum(p[0] == place[0] for p in self.compute)
                assert alike < MOST[place[0]], "too many"
                self.compute[place], self.whole[place] = 0, False
            case changes.CreateComputeInstance(place=place):
                assert self.compute[place] == 0, "there is one"
                self.compute[place], self.whole[place] = 1, True


def covered(place: Place) -> set[int]:
    return set(range(place[1], place[1] + place[2]))


def legal_together(places: list[Place]) -> bool:
    slices = [s for p in places for s in covered(p)]
    counts = collections.Counter(name for name, _, _ in places)
    return len(slices) == len(set(slices)) and all(n <= MOST[name] for name, n in counts.items())


@st.composite
def geometries(draw: st.DrawFn, most: int = 7) -> tuple[Place, ...]:
    found: list[Place] = []
    for place in draw(st.lists(st.sampled_from(SPOTS), max_size=most)):
        if legal_together([*found, place]):
            found.append(place)
    return tuple(found)


@st.composite
def states(draw: st.DrawFn) -> MigLayout:
    instances = []
    for place in draw(geometries()):
        count = draw(st.sampled_from([1, 1, 1, 0, 2]))
        busy = count > 0 and draw(st.sampled_from([False, False, True]))
        instances.append(PresentInstance(place, count, whole=count == 1, busy=busy))
    enabled = True if instances else draw(st.booleans())
    return MigLayout(
        capable=True,
        enabled=enabled,
        pending=enabled,
        profiles=PROFILES,
        instances=tuple(sorted(instances, key=lambda i: i.place[1])),
    )


@st.composite
def questions(draw: st.DrawFn) -> tuple[MigLayout, tuple[Place, ...], MigPermissions]:
    state = draw(states())
    there = [i.place for i in state.instances]
    some = draw(st.lists(st.sampled_from(there), unique=True)) if there else []
    wanted = [p for p in some if draw(st.booleans())]
    for place in draw(st.lists(st.sampled_from(SPOTS), max_size=4)):
        if legal_together([*wanted, place]):
            wanted.append(place)
    ours = frozenset(draw(st.lists(st.sampled_from(there), unique=True))) if there else frozenset()
    allowed: changes.MigChanges = draw(st.sampled_from(["never", "instances", "instances"]))
    return state, tuple(wanted), MigPermissions(allowed, ours)


def reachable(state: MigLayout, places: tuple[Place, ...], leave: MigPermissions) -> int | None:
    """The least number of GPU instances destroyed by any way there; None where there is none.

    Tries every set of instances that may go: order does not matter, since what goes can go first.
    """
    by_place = {i.place: i for i in state.instances}
    may_go = [i.place for i in state.instances if i.place in leave.ours and not i.busy]
    wanted = set(places)

    def reaches(gone: set[Place]) -> bool:
        left = set(by_place) - gone
        changed = bool(gone) or not wanted <= left
        for place in wanted & left:
            found = by_place[place]
            if not found.whole:
                changed = True
                if found.compute_instances and (found.busy or place not in leave.ours):
                    return False
                if not found.compute_instances and place not in leave.ours:
                    return False
        if changed and leave.changes == "never":
            return False
        return legal_together(sorted(left | wanted))

    if not state.enabled:
        return None
    best: int | None = None
    for number in range(2 ** len(may_go)):
        gone = {p for n, p in enumerate(may_go) if number >> n & 1}
        # Destroying what is wanted and making it again is never less than mending it.
        if (best is None or len(gone) < best) and reaches(gone):
            best = len(gone)
    return best


@settings(max_examples=400)
@given(question=questions())
def test_the_steps_reach_what_is_wanted_by_legal_states_with_the_least_destroyed(
    question: tuple[MigLayout, tuple[Place, ...], MigPermissions],
) -> None:
    state, wanted, leave = question
    steps = changes.plan_changes(state, wanted, leave)
    least = reachable(state, wanted, leave)
    assert isinstance(steps, changes.Refused) == (least is None)
    if isinstance(steps, changes.Refused):
        assert steps.reason
        assert steps.hint
        return
    driver = Driver(state)
    for step in steps:
        assert changes.step_text(step)
        driver.do(step)  # refuses what no driver would do
        missing = [p for p, count in driver.compute.items() if count == 0]
        before = [i.place for i in state.instances if not i.compute_instances]
        assert len(set(missing) - set(before)) <= 1, "a crash leaves at most one incomplete"
    assert set(wanted) <= driver.compute.keys()
    assert all(driver.whole[place] for place in wanted)
    destroyed = [s.place for s in steps if isinstance(s, changes.DestroyGpuInstance)]
    assert len(destroyed) == least
    kept = {i.place for i in state.instances} - set(destroyed)
    assert kept <= driver.compute.keys()
    there = {i.place: i for i in state.instances}
    for place in destroyed:
        assert place in leave.ours
        assert not there[place].busy
    if leave.changes == "never":
        assert steps == ()
    left = tuple(
        PresentInstance(place, count, whole=driver.whole[place], busy=place in driver.busy)
        for place, count in driver.compute.items()
    )
    there_now = dataclasses.replace(state, instances=left)
    assert changes.plan_changes(there_now, wanted, leave) == ()


@settings(max_examples=200)
@given(places=st.lists(st.sampled_from(SPOTS), max_size=5))
def test_a_geometry_is_refused_exactly_when_it_cannot_be(places: list[Place]) -> None:
    assert (changes.illegal(PROFILES, places) == "") == legal_together(places)


@settings(max_examples=150)
@given(state=states(), data=st.data())
def test_one_instance_is_removed_even_half_made(state: MigLayout, data: st.DataObject) -> None:
    place = data.draw(st.sampled_from([i.place for i in state.instances] or [SPOTS[0]]))
    steps = changes.plan_removal(state, place)
    there = {i.place: i for i in state.instances}
    if place in there and there[place].busy:
        assert isinstance(steps, changes.Refused)
        return
    assert not isinstance(steps, changes.Refused)
    driver = Driver(state)
    for step in steps:
        driver.do(step)
    assert driver.compute.keys() == there.keys() - {place}


def state_of(*instances: PresentInstance, **more: Any) -> MigLayout:
    return dataclasses.replace(MigLayout(True, True, True, PROFILES, instances), **more)


WANTED = ("2g.20gb", 2, 2)
SMALL, OLD_MEDIA, NEW_MEDIA = ("1g.10gb", 2, 1), ("1g.10gb+me", 0, 1), ("1g.10gb+me", 6, 1)


@pytest.mark.parametrize(
    ("state", "places", "leave", "words"),
    [
        (state_of(capable=False), [WANTED], "instances", "no MIG"),
        (state_of(pending=False), [WANTED], "instances", "next reset"),
        (state_of(), [("9g.90gb", 0, 8)], "instances", "no MIG profile 9g.90gb"),
        (state_of(), [("2g.20gb", 1, 2)], "instances", "cannot start at slice 1"),
        (state_of(), [("2g.20gb", 0, 1)], "instances", "covers 2 memory slices"),
        (state_of(), [WANTED, ("3g.40gb", 0, 4)], "instances", "overlap"),
        (state_of(), [OLD_MEDIA, ("1g.10gb+me", 1, 1)], "instances", "holds 1 of 1g.10gb+me"),
        (state_of(), [WANTED], "never", "gpu.mig_changes is never"),
        (state_of(enabled=False, pending=False), [WANTED], "instances", "MIG is off"),
        (state_of(PresentInstance(SMALL, busy=True)), [WANTED], "instances",
         "a process runs in 1g.10gb@2"),
        (state_of(PresentInstance(("1g.10gb", 3, 1))), [WANTED], "instances", "made by others"),
        (state_of(PresentInstance(OLD_MEDIA)), [NEW_MEDIA], "instances", "is in the way"),
    ],
)  # fmt: skip
def test_refusals_say_why_and_what_to_do(
    state: MigLayout, places: list[Place], leave: changes.MigChanges, words: str
) -> None:
    ours = frozenset({SMALL})
    found = changes.plan_changes(state, tuple(places), MigPermissions(leave, ours))
    assert isinstance(found, changes.Refused)
    assert words in found.reason
    assert found.hint.endswith(".")


def test_what_fits_stays_and_only_what_is_in_the_way_goes() -> None:
    small = [PresentInstance(("1g.10gb", start, 1)) for start in range(7)]
    ours = frozenset(one.place for one in small)
    steps = changes.plan_changes(state_of(*small), [WANTED], MigPermissions("instances", ours))
    assert steps == (
        changes.DestroyComputeInstance(SMALL),
        changes.DestroyGpuInstance(SMALL),
        changes.DestroyComputeInstance(("1g.10gb", 3, 1)),
        changes.DestroyGpuInstance(("1g.10gb", 3, 1)),
        changes.CreateGpuInstance(WANTED),
        changes.CreateComputeInstance(WANTED),
    )


def test_media_engines_go_to_one_instance_only() -> None:
    leave = MigPermissions("instances", frozenset({OLD_MEDIA}))
    steps = changes.plan_changes(state_of(PresentInstance(OLD_MEDIA)), [NEW_MEDIA], leave)
    assert not isinstance(steps, changes.Refused)
    assert changes.DestroyGpuInstance(OLD_MEDIA) in steps
