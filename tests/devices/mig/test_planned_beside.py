"""Plans rest on MIG as discovered: foreign instances stay, and are used as they are."""

from partitiond.core.hardware.kinds import Device
from partitiond.core.mig.changes import DestroyComputeInstance, MigChanges
from partitiond.core.mig.geometry import Geometry, Place, geometry_on, place_of, profiles_of
from partitiond.devices.host import HostDevices
from partitiond.devices.mig import MigControl
from partitiond.devices.mig.instances import perform
from partitiond.simulated.gpus import SimulatedHost
from tests.devices.mig.test_control import CUT, NOWHERE


def seen(
    host: SimulatedHost, changes: MigChanges, own: list[Place]
) -> list[tuple[Device, Geometry]]:
    first = host.uuids()[0]
    devices = HostDevices(
        cpu=False, mig_changes=changes, mig_helper=NOWHERE, simulated_host=host.folder,
        own_instances=lambda uuid: own if uuid == first else [],
    ).discover()  # fmt: skip
    found = [(device, geometry_on(device)) for device in devices]
    return [(device, geometry) for device, geometry in found if geometry is not None]


def test_what_others_made_stays_and_may_be_used_and_ours_makes_room(host: SimulatedHost) -> None:
    (first, geometry), (_, fresh) = seen(host, "instances", own=CUT[:1])
    assert first.occupied_slices == (2, 3, 4, 5, 6, 7)
    assert geometry.places({"3g.40gb": 1, "1g.10gb": 4}) == [
        ("1g.10gb", 0, 1), ("1g.10gb", 1, 1), *CUT[1:],
    ]  # fmt: skip
    assert geometry.places({"3g.40gb": 2}) is None
    assert geometry.places({"4g.40gb": 1}) is None
    assert fresh.places({"7g.80gb": 1}) is not None
    (first, geometry), _ = seen(host, "instances", own=CUT)
    assert first.occupied_slices == ()
    assert geometry.places({"7g.80gb": 1}) == [("7g.80gb", 0, 8)]


def test_what_others_left_half_made_is_taken_and_ours_is_completed(host: SimulatedHost) -> None:
    first, place = host.uuids()[0], CUT[3]
    perform(first, DestroyComputeInstance(place))
    for own, taken in ((CUT[:3], (4, 5, 6, 7)), (CUT, ())):
        (device, _), _ = seen(host, "instances", own=own)
        assert device.occupied_slices == taken


async def test_a_fixed_geometry_is_used_at_its_places_and_nothing_else(host: SimulatedHost) -> None:
    host.privileged(False)
    (first, geometry), (empty, none) = seen(host, "never", own=[])
    assert first.mig_fixed
    assert none.sets == ((0,) * len(profiles_of(empty)),)
    places = geometry.places({"3g.40gb": 1, "2g.20gb": 1, "1g.10gb": 2})
    assert places is not None
    assert geometry.places({"1g.10gb": 3}) is None
    # Where this user is not told places they are made up: by discovery and by control alike.
    there = await MigControl("never", NOWHERE).instances(first.id)
    assert sorted(places) == sorted(place_of(i) for i in there)
    assert {i.uuid for i in first.mig_instances} == {i.uuid for i in there}
