"""The work over many hosts grows with their number, not with its square.

Each case runs the same work for a fleet, and for one of twice the size, and compares the
instructions that ran. What is linear takes twice as many, what goes through all pairs four times.
"""

import dataclasses
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from partitiond.controller.plans.planning import planning_devices
from partitiond.controller.profiles.job_room import JobHost, busy_cores, host_bytes_left, turn_of
from partitiond.controller.runtime.engine_matching import held
from partitiond.controller.runtime.routes import RoutedEngine, RoutePolicy, routing_from
from partitiond.controller.runtime.sleeping import serving_since
from partitiond.controller.views.parts import device_overviews
from partitiond.controller.views.records import placed_views
from partitiond.core.hardware.kinds import Device, silent_device
from partitiond.core.hardware.partition import MpsShare
from partitiond.core.plan.record import Placement
from partitiond.core.plan.start_order import start_order
from partitiond.core.replica.convergence import convergence
from partitiond.core.replica.observation import Observation, ObservedReplica, ReconcilePolicy
from partitiond.core.replica.ready_times import Starts, ready_times
from partitiond.core.replica.reconcile import reconcile
from partitiond.core.replica.states import ReplicaState
from partitiond.core.units import GIB, Bytes
from tests.controller.samples import placement, plan, record
from tests.devices.fake import fake_cpu, fake_gpus
from tests.operations import operations

FEW, MANY = 24, 48
MOST = 2.4
"""Largest ratio of the work for twice as many hosts; a sort adds a little to 2."""
POLICY = ReconcilePolicy()


class Fleet:
    """Hosts with a GPU and a CPU, and a replica on each GPU.

    Attributes:
        places: of the replicas, all of different models.
    """

    def __init__(self, hosts: int) -> None:
        self.devices: tuple[Device, ...] = ()
        for number in range(hosts):
            host = f"h{number:03d}"
            (gpu,) = fake_gpus("a100-80gb", host=host)
            self.devices += (
                dataclasses.replace(gpu, id=f"GPU-{host}"),
                fake_cpu(host=host, device_id=f"cpu-{host}"),
            )
        self.places = tuple(self.place(device, "a") for device in self.devices[::2])

    @staticmethod
    def place(device: Device, kind: str) -> Placement:
        share = MpsShare(device.id, Bytes(GIB), 50)
        name = f"{kind}{device.host}-1"
        return dataclasses.replace(placement(name), device_id=device.id, partition=share)

    def seen(self, state: ReplicaState | None, places: Sequence[Placement] = ()) -> Observation:
        """The replicas in a state, or none of them."""
        replicas = tuple(
            ObservedReplica(place.replica_id, f"g-{place.replica_id}", place, state, 0, 0.0)
            for place in (places or self.places)
            if state is not None
        )
        room = tuple((device.id, 40 * GIB) for device in self.devices)
        return Observation(replicas, room, now=100.0)

    def engines(self) -> list[Any]:
        """What is asked of them."""
        serving = ReplicaState.SERVING
        return [
            SimpleNamespace(placement=place, state=serving, since=1.0, failures=0)
            for place in self.places
        ]


def reconciled(fleet: Fleet, seen: Observation) -> Callable[[], object]:
    return lambda: reconcile(fleet.places, seen, POLICY)


def converged(fleet: Fleet, seen: Observation) -> Callable[[], object]:
    applied = plan(*fleet.places, devices=fleet.devices)
    return lambda: convergence(applied, seen, POLICY)


def replaced(fleet: Fleet) -> Observation:
    """Another engine serves on each device."""
    old = [fleet.place(device, "old") for device in fleet.devices[::2]]
    return fleet.seen(ReplicaState.SERVING, old)


def starting(fleet: Fleet) -> Callable[[], object]:
    seen = fleet.seen(ReplicaState.STARTING).replicas
    half = seen[: len(seen) // 2]
    starts = Starts({place.replica_id: 30.0 for place in fleet.places})
    return lambda: ready_times(fleet.places, half, starts, 100.0)


def ordered(fleet: Fleet) -> Callable[[], object]:
    places = [
        dataclasses.replace(place, device_id=f"{place.device_id}-{number}")
        for place in fleet.places
        for number in range(8)
    ]
    return lambda: start_order(places)


def jobs(fleet: Fleet) -> Callable[[], object]:
    launches: Any = [
        SimpleNamespace(device_id=place.device_id, cores=(0, 1)) for place in fleet.places
    ]

    def work() -> None:
        busy = busy_cores(launches, fleet.devices)
        stated = {device.host: GIB for device in fleet.devices}
        left = host_bytes_left(fleet.devices, stated, fleet.places)
        turn_of((), (), JobHost(fleet.devices, {}, (), busy, left))

    return work


def planned(fleet: Fleet) -> Callable[[], object]:
    used = [(engine, GIB) for engine in fleet.engines()]
    quiet = [silent_device(device, "it is silent.") for device in fleet.devices]
    return lambda: (planning_devices(fleet.devices, used), planning_devices(quiet, used))


def shown(fleet: Fleet) -> Callable[[], object]:
    replicas: Any = [
        SimpleNamespace(device_id=place.device_id, held_bytes=1, coming_bytes=0)
        for place in fleet.places
    ]
    return lambda: device_overviews(fleet.devices, replicas, {})


def routed(fleet: Fleet) -> Callable[[], object]:
    """Each model is routed by its own engines alone, and each place shown beside its own."""
    seen = fleet.seen(ReplicaState.SERVING).replicas
    engines = [RoutedEngine(one, one.replica_id, "/run/s", 4096, 256) for one in seen]
    models, policy = [record(place.model) for place in fleet.places], RoutePolicy()

    def work() -> None:
        table = routing_from(
            desired=fleet.places, engines=engines, models=models, keys=[], policy=policy, version=1
        )
        assert len(table.replicas) == len(fleet.places)
        held(fleet.places, [], (), lambda place: place.replica_id)
        placed_views(
            fleet.places,
            [],
            name_for=lambda place: place.replica_id,
            asleep=(),
            fetching={},
            hosts={},
        )

    return work


CASES: dict[str, Callable[[Fleet], Callable[[], object]]] = {
    "all serve": lambda fleet: reconciled(fleet, fleet.seen(ReplicaState.SERVING)),
    "all are to start": lambda fleet: reconciled(fleet, fleet.seen(None)),
    "all failed": lambda fleet: reconciled(fleet, fleet.seen(ReplicaState.FAILED)),
    "all start": lambda fleet: reconciled(fleet, fleet.seen(ReplicaState.STARTING)),
    "all are replaced": lambda fleet: reconciled(fleet, replaced(fleet)),
    "all sleep": lambda fleet: reconciled(fleet, fleet.seen(ReplicaState.SLEEPING)),
    "convergence, all failed": lambda fleet: converged(fleet, fleet.seen(ReplicaState.FAILED)),
    "convergence, all are replaced": lambda fleet: converged(fleet, replaced(fleet)),
    "when models serve": starting,
    "the order of starts": ordered,
    "since when models serve": lambda fleet: lambda: serving_since(fleet.places, fleet.engines()),
    "room for jobs": jobs,
    "devices of a plan": planned,
    "devices in the overview": shown,
    "routes and places": routed,
}


@pytest.mark.parametrize("case", CASES)
def test_twice_as_many_hosts_are_twice_the_work(case: str) -> None:
    few, many = (operations(CASES[case](Fleet(hosts))) for hosts in (FEW, MANY))
    assert few > FEW
    assert many / few < MOST
