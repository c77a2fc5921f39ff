"""In histories of a fleet no engine is an orphan, none runs twice, and what was on a lost host runs
elsewhere while there is room.

Hosts come and go, engines die, heads start anew or take over, and former heads act on.
What is true (`Fleet.running`) and what a head knows are kept apart. A head judges hosts by
`core.hardware.host_state` and engines by `reconcile`, as the loop does; a host judges heads by
`hosts.calls.fencing`. A message that is late is one of a former head.
"""

import dataclasses
import itertools
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partitiond.core.hardware.host_state import (
    HostLimits,
    HostStanding,
    HostWords,
    asked_first,
    heard,
    host_standing,
    missed,
)
from partitiond.core.plan.record import Placement
from partitiond.core.replica.observation import (
    LIVE,
    Action,
    DrainReplica,
    ForgetReplica,
    Observation,
    ObservedReplica,
    StartEngine,
    StopEngine,
    Unknown,
)
from partitiond.core.replica.reconcile import reconcile
from partitiond.core.replica.states import ReplicaEvent, ReplicaState, ended_state, step
from partitiond.core.units import MIB
from partitiond.hosts.calls.fencing import HeadSession, Obedience, obedience
from tests.core.simulated_host import POLICY, placement

LIMITS = HostLimits(silent_seconds=20.0, lost_seconds=60.0)
LOOK_SECONDS = 5.0
ROOM = 250 * MIB
"""Of a device: two engines."""
CALM_PASSES = 40
SERVING, STARTING = ReplicaState.SERVING, ReplicaState.STARTING


FIRST = HeadSession("head-1", 1, 1, "s")


@dataclasses.dataclass
class Known:
    """An engine as the head knows it."""

    seen: ObservedReplica
    host: str

    @property
    def live(self) -> bool:
        return self.seen.state in LIVE


class Head:
    """What a head knows since it started.

    Attributes:
        session: how hosts know it.
        overtaken: a host has refused it, so it begins nothing any more.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        plan: tuple[Placement, ...],
        now: float,
        session: HeadSession = FIRST,
    ) -> None:
        self.session = session
        self.overtaken = False
        self.words: dict[str, HostWords] = {host: asked_first(now) for host in hosts}
        self.searched: set[str] = set()
        self.known: list[Known] = []
        self.plan = plan

    def standing(self, host: str, now: float) -> HostStanding:
        return host_standing(host, self.words[host], now, LIMITS)


class Fleet:
    """Hosts with devices, a head, and those that it overtook. Each step checks what must hold."""

    def __init__(self, devices: Sequence[int], replicas: int) -> None:
        self.now = 0.0
        self.devices = {f"h{n}": [f"gpu{d}@h{n}" for d in range(c)] for n, c in enumerate(devices)}
        self.cut: set[str] = set()
        self.running: dict[str, tuple[Placement, str]] = {}
        self.serials = itertools.count(1)
        self.obeyed: dict[str, HeadSession] = {}
        self.former: list[Head] = []
        places = [d for there in self.devices.values() for d in there] * 2
        plan = tuple(
            placement(f"{'abc'[n % 3]}-{n}", (places[:n].count(device),), device_id=device)
            for n, device in enumerate(places[:replicas])
        )
        self.head = Head(tuple(self.devices), plan, self.now)
        self.steps: tuple[Callable[[random.Random], None], ...] = (
            self.time_passes,
            self.time_passes,
            self.time_passes,
            self.long_time_passes,
            self.a_host_is_cut,
            self.a_host_is_back,
            self.an_engine_dies,
            self.the_head_starts_anew,
            self.a_head_takes_over,
            self.a_former_head_acts,
            self.a_former_head_acts,
            self.another_plan,
            self.a_device_is_gone,
        )

    # -- what happens ------------------------------------------------------------------------

    def tell(self, history: Sequence[int]) -> None:
        for number in history:
            rng = random.Random(number)
            rng.choice(self.steps)(rng)
        self.comes_to_rest()

    def time_passes(self, rng: random.Random) -> None:
        self.now += rng.choice([1.0, LOOK_SECONDS, LOOK_SECONDS, 15.0])
        self.one_pass(rng)

    def long_time_passes(self, rng: random.Random) -> None:
        for _ in range(rng.choice([5, 15])):
            self.now += LOOK_SECONDS
            self.one_pass(rng)

    def a_host_is_cut(self, rng: random.Random) -> None:
        self.cut.add(rng.choice(list(self.devices)))

    def a_host_is_back(self, rng: random.Random) -> None:
        if self.cut:
            self.cut.remove(rng.choice(sorted(self.cut)))

    def an_engine_dies(self, rng: random.Random) -> None:
        if self.running:
            del self.running[rng.choice(sorted(self.running))]

    def the_head_starts_anew(self, _rng: random.Random) -> None:
        before = self.head
        session = dataclasses.replace(before.session, start=before.session.start + 1)
        self.head = Head(tuple(self.devices), before.plan, self.now, session)
        self.former.append(before)

    def a_head_takes_over(self, rng: random.Random) -> None:
        """It begins with a backup's plan, and above every epoch that was."""
        before = self.head
        epoch = before.session.epoch + 1
        plan = list(before.plan)
        if rng.random() < 0.3:
            plan = plan[: rng.randint(0, len(plan))]
        self.head = Head(
            tuple(self.devices), tuple(plan), self.now, HeadSession(f"head-{epoch}", epoch, 1, "s")
        )
        self.former.append(before)

    def a_former_head_acts(self, rng: random.Random) -> None:
        if not self.former:
            return
        newest, self.head = self.head, rng.choice(self.former[-3:])
        try:
            self.one_pass(rng)
        finally:
            self.head = newest

    def another_plan(self, rng: random.Random) -> None:
        plan = list(self.head.plan)
        rng.shuffle(plan)
        self.head.plan = tuple(plan[: rng.randint(0, len(plan))] if rng.random() < 0.3 else plan)

    def a_device_is_gone(self, rng: random.Random) -> None:
        host = rng.choice(list(self.devices))
        if len(self.devices[host]) > 1 and rng.random() < 0.3:
            gone = self.devices[host].pop()
            self.running = {g: it for g, it in self.running.items() if it[0].device_id != gone}

    # -- what the head does ------------------------------------------------------------------

    def answers(self, host: str) -> bool:
        """Whether the host hears the head, and obeys it; a host that refuses it says so."""
        head = self.head
        if host in self.cut or head.overtaken:
            return False
        how = obedience(self.obeyed.get(host), head.session)
        if how is Obedience.REFUSE:
            head.overtaken = True
            return False
        before, self.obeyed[host] = self.obeyed.get(host, FIRST), head.session
        rank = (before.epoch, before.start)
        assert (head.session.epoch, head.session.start) >= rank, "an overtaken head is obeyed"
        return True

    def one_pass(self, rng: random.Random) -> None:
        head = self.head
        answer = {host: self.answers(host) for host in head.words}
        if head.overtaken:
            return
        for host, words in head.words.items():
            is_cut = not answer[host]
            head.words[host] = (
                missed(words, self.now, "cut") if is_cut else heard(words, self.now, LIMITS)
            )
            if not head.standing(host, self.now).answers:
                head.searched.discard(host)
        self.lose()
        self.search()
        self.hear_of_engines(rng)
        self.repair()
        for action in reconcile(head.plan, self.observed(), POLICY):
            self.act(action, rng)
        self.check()

    def lose(self) -> None:
        head = self.head
        for one in head.known:
            if one.live and head.standing(one.host, self.now).gone:
                one.seen = self.without_engine(one.seen)

    def search(self) -> None:
        head = self.head
        for host in head.words.keys() - self.cut - head.searched:
            if not head.standing(host, self.now).answers:
                continue
            head.searched.add(host)
            known = {one.seen.generation for one in head.known if one.live}
            for generation, (what, where) in self.running.items():
                if where == host and generation not in known:
                    same = {generation}
                    head.known = [o for o in head.known if o.live or o.seen.generation not in same]
                    head.known.append(Known(self.fresh(what, generation), host))

    def hear_of_engines(self, rng: random.Random) -> None:
        for one in self.head.known:
            if one.host in self.cut or not one.live:
                continue
            if one.seen.generation not in self.running:
                one.seen = self.without_engine(one.seen)
            elif one.seen.state is STARTING and rng.random() < 0.7:
                one.seen = self.stepped(one.seen, ReplicaEvent.BECAME_READY)
            elif one.seen.state is ReplicaState.DRAINING:
                one.seen = dataclasses.replace(one.seen, in_flight=0)
            elif one.seen.state is ReplicaState.STOPPING:  # the stop is tried again and again
                del self.running[one.seen.generation]
                one.seen = self.stepped(one.seen, ReplicaEvent.EXITED)

    def repair(self) -> None:
        """Give each replica whose device is lost or gone another place, beside all others."""
        head = self.head
        plan: list[Placement] = []
        usable = [d for h, there in self.devices.items() if self.settled(h) for d in there]
        known = {device for there in self.devices.values() for device in there}
        for one in head.plan:
            host = one.device_id.partition("@")[2]
            stays = one.device_id in known and not head.standing(host, self.now).gone
            others = [*plan, *(p for p in head.plan if p is not one and p not in plan)]
            free = next(
                (
                    placement(one.replica_id, (core,), device_id=device)
                    for device in usable
                    for core in (0, 1)
                    if not any(
                        p.device_id == device and core in cores_of(p) for p in others
                    )
                ),
                None,
            )  # fmt: skip
            plan.append(one if stays or free is None else free)
        head.plan = tuple(plan)

    def settled(self, host: str) -> bool:
        """Whether something may be begun on the host."""
        words, head = self.head.words[host], self.head
        fine = head.standing(host, self.now).answers and words.missed_at is None
        return fine and host in head.searched

    def observed(self) -> Observation:
        rooms: list[tuple[str, int | Unknown]] = [
            (device, ROOM if self.settled(host) else Unknown("not fine"))
            for host, there in self.devices.items()
            for device in there
        ]
        return Observation(tuple(o.seen for o in self.head.known), tuple(rooms), self.now)

    def act(self, action: Action, rng: random.Random) -> None:
        known = self.head.known
        if isinstance(action, StartEngine):
            self.start(action.placement, rng)
            return
        (one,) = (
            o
            for o in known
            if (o.seen.replica_id, o.seen.generation) == (action.replica_id, action.generation)
        )
        match action:
            case ForgetReplica():
                known.remove(one)
            case DrainReplica():
                one.seen = self.stepped(one.seen, ReplicaEvent.DRAIN_ASKED)
                one.seen = dataclasses.replace(one.seen, in_flight=None)
            case StopEngine():
                one.seen = self.stepped(one.seen, ReplicaEvent.STOP_ASKED)
                if one.host not in self.cut:
                    self.running.pop(one.seen.generation, None)
                    one.seen = self.stepped(one.seen, ReplicaEvent.EXITED)

    def start(self, what: Placement, rng: random.Random) -> None:
        head, host = self.head, what.device_id.partition("@")[2]
        head.known = [o for o in head.known if o.live or o.seen.placement != what or o.host != host]
        generation = f"g{next(self.serials)}"
        lost = host in self.cut or rng.random() < 0.1  # another start in this pass may have cut it
        if not lost or (host not in self.cut and rng.random() < 0.5):
            self.running[generation] = what, host
        if lost:  # no answer came: it may run, or not
            self.cut.add(host)
            head.searched.discard(host)
        else:
            head.known.append(Known(self.fresh(what, generation), host))

    def fresh(self, what: Placement, generation: str) -> ObservedReplica:
        return ObservedReplica(what.replica_id, generation, what, STARTING, None, self.now)

    def without_engine(self, seen: ObservedReplica) -> ObservedReplica:
        return dataclasses.replace(seen, state=ended_state(seen.state), state_since=self.now)

    def stepped(self, seen: ObservedReplica, event: ReplicaEvent) -> ObservedReplica:
        return dataclasses.replace(seen, state=step(seen.state, event), state_since=self.now)

    # -- what must hold ----------------------------------------------------------------------

    def check(self) -> None:
        head = self.head
        places = [(what.replica_id, what.partition) for what, _ in self.running.values()]
        assert len(places) == len(set(places)), "a replica runs twice in one place"
        if head in self.former:
            return
        known = {one.seen.generation for one in head.known if one.live}
        for generation, (what, host) in self.running.items():
            unheard = host in self.cut or host not in head.searched
            assert generation in known or unheard, f"{what.replica_id} on {host} is an orphan"
        for one in head.known:
            assert not (one.live and head.standing(one.host, self.now).gone), "waits for the lost"

    def comes_to_rest(self) -> None:
        """Once all is quiet: hosts that stay away have nothing that could be elsewhere."""
        rng = random.Random(1)
        away = set(sorted(self.cut)[:1])
        self.cut = set(away)
        for _ in range(CALM_PASSES):
            self.now += LOOK_SECONDS
            self.one_pass(rng)
            self.cut = set(away)
        here = [o.seen for o in self.head.known if o.live]
        room = sum(2 * len(there) for host, there in self.devices.items() if host not in away)
        if len(self.head.plan) <= room:
            assert sorted(o.replica_id for o in here) == sorted(
                p.replica_id for p in self.head.plan
            ), "a replica of a lost host has room and no place"
            assert all(o.state is SERVING for o in here)
        self.cut = away = set()
        for _ in range(CALM_PASSES):
            self.now += LOOK_SECONDS
            self.one_pass(rng)
            self.cut = set()
        serving = sorted((o.seen.placement for o in self.head.known if o.live), key=repr)
        room = sum(2 * len(there) for there in self.devices.values())
        if len(self.head.plan) <= room:
            assert serving == sorted(self.head.plan, key=repr)
        assert set(self.running) == {o.seen.generation for o in self.head.known if o.live}


def cores_of(one: Placement) -> tuple[int, ...]:
    cores: tuple[int, ...] = getattr(one.partition, "cores", ())
    return cores


numbers = st.lists(st.integers(0, 2**32 - 1), min_size=5, max_size=60)
fleets = st.lists(st.integers(0, 3), min_size=1, max_size=5)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(fleets, st.integers(0, 8), numbers)
def test_a_fleet_keeps_every_invariant_and_comes_to_rest(
    devices: list[int], replicas: int, history: list[int]
) -> None:
    Fleet(devices, min(replicas, 2 * sum(devices))).tell(history)


def test_forty_hosts_of_which_many_are_away() -> None:
    rng = random.Random(7)
    Fleet([1] * 40, 50).tell([rng.randrange(2**32) for _ in range(60)])


@pytest.mark.soak
def test_three_hundred_long_histories() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        devices = [rng.randint(0, 3) for _ in range(rng.randint(1, 5))]
        replicas = min(rng.randint(0, 10), 2 * sum(devices))
        try:
            Fleet(devices, replicas).tell([rng.randrange(2**32) for _ in range(80)])
        except AssertionError as error:
            raise AssertionError(f"history {seed}: {error}") from error
