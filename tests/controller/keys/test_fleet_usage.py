"""What each proxy of a fleet counted is booked once, in whatever order things break."""

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partitiond.controller.keys.usage import UsageUseCases
from partitiond.core.demand.fleet import FleetSample
from partitiond.core.demand.traffic import TrafficSample, UsageCount
from partitiond.core.keys.usage import UsagePosition, take_position
from partitiond.store import Store, open_store
from partitiond.store.usage_repository import OWN, OWN_HOST, POSITION
from tests.controller.fakes import FakeClock

HOSTS = ("one", "two", "three")


@dataclasses.dataclass
class Proxy:
    """Counts one key's requests; knows what its predecessor had counted at its end."""

    name: str
    life: int = 0
    count: int = 0
    left: TrafficSample | None = None

    def sample(self) -> TrafficSample:
        use = {"k": {"m": UsageCount(self.count)}}
        return TrafficSample(float(self.count), f"{self.name}-{self.life}", usage=use)

    def restart(self) -> None:
        self.left, self.life, self.count = self.sample(), self.life + 1, 0


class Fleet:
    """Hosts, and a head that may be started again, or another one's."""

    def __init__(self, store: Store) -> None:
        self.store, self.clock = store, FakeClock()
        self.proxies = {name: Proxy(name) for name in HOSTS}
        self.own = "one"
        self.seen: TrafficSample | None = None
        self.start()

    def start(self) -> None:
        def left(host: str) -> TrafficSample | None:
            return self.proxies[host or self.own].left

        self.desk = UsageUseCases(
            store=self.store,
            clock=self.clock,
            latest=lambda: self.seen,
            left=left,
            keep_days=400,
        )

    def look(self, answering: set[str]) -> None:
        read = {name: self.proxies[name].sample() for name in answering}
        self.seen = FleetSample(0.0, "sum", hosts=read)
        self.desk.collect()

    def booked(self) -> int:
        self.desk.book()
        return sum(line.requests for line in self.store.usage("0", "9"))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("count"), st.sampled_from(HOSTS), st.integers(1, 9)),
        st.tuples(st.just("look"), st.sets(st.sampled_from(HOSTS)), st.just(0)),
        st.tuples(st.just("proxy"), st.sampled_from(HOSTS), st.just(0)),
        st.tuples(st.just("head"), st.sampled_from(HOSTS), st.integers(0, 1)),
    ),
    max_size=40,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, began_alone=st.booleans())
def test_everything_is_booked_exactly_once(
    steps: list[tuple[str, object, int]], began_alone: bool
) -> None:
    """A proxy may be restarted once between two of its readings: its last counts are kept."""
    fleet = Fleet(open_store(":memory:"))
    total, unread = 0, dict.fromkeys(HOSTS, 0)
    if began_alone:
        fleet.proxies["one"].count = total = 4
        fleet.seen = fleet.proxies["one"].sample()  # the head was the only host
        fleet.desk.collect()
    for kind, which, number in steps:
        match kind:
            case "count":
                assert isinstance(which, str)
                fleet.proxies[which].count += number
                total += number
            case "look":
                assert isinstance(which, set)
                fleet.look(which)
                unread |= dict.fromkeys(which, 0)
            case "proxy":
                assert isinstance(which, str)
                fresh = fleet.proxies[which]
                if unread[which] == 0 and (fresh.count == 0 or _known(fleet, which)):
                    fresh.restart()
                    unread[which] = 1
            case "head":
                assert isinstance(which, str)
                if number or fleet.desk.book():  # killed, or ended as it should
                    fleet.own = which
                    fleet.start()
    fleet.look(set(HOSTS))
    assert fleet.booked() == total
    fleet.look(set(HOSTS))
    fleet.start()
    fleet.look(set(HOSTS))
    assert fleet.booked() == total
    fleet.store.close()


def _known(fleet: Fleet, host: str) -> bool:
    """Whether the proxy that runs was booked before: else nobody could book what it left."""
    positions = fleet.store.usage_positions().values()
    return fleet.proxies[host].sample().epoch in {position.epoch for position in positions}


@pytest.mark.parametrize("own", ["", "one"])
def test_the_positions_of_the_release_before_are_read_and_replaced(own: str) -> None:
    """It kept those of its own host apart, with the seconds that engines were busy."""
    store = open_store(":memory:")
    marks = {
        "epoch": "e",
        "use\nk\nm": '{"requests": 3, "engine_seconds": 4.5}',
        "busy\nm-1": "7 1",
    }
    for subject, value in marks.items():
        store.set_mark(OWN, subject, value)
    if own:
        store.set_mark(OWN_HOST, own, "")
        store.set_mark(POSITION, "two\nepoch", "f")
    others = {"two": UsagePosition("f")} if own else {}
    kept = {own: UsagePosition("e", {"k": {"m": UsageCount(3)}}), **others}
    assert store.usage_positions() == kept
    store.add_usage("2030-01-01T00", {}, kept)
    assert store.usage_positions() == kept
    assert not store.marks(OWN)
    assert not store.marks(OWN_HOST)
    store.add_usage("2030-01-01T00", {}, others)
    assert store.usage_positions() == others
    store.close()


def test_a_proxy_is_known_by_its_epoch_first() -> None:
    known = {"": "e0", "one": "e1", "two": "e2"}
    positions = {name: UsagePosition(e) for name, e in known.items()}
    for host, epoch, taken in (
        ("one", "e1", "e1"),
        ("renamed", "e2", "e2"),
        ("two", "new", "e2"),
        ("one", "e0", "e0"),
        ("three", "new", ""),
    ):
        found, rest = take_position(positions, host, epoch)
        assert found.epoch == taken
        assert {p.epoch for p in rest.values()} == set(known.values()) - {taken}
