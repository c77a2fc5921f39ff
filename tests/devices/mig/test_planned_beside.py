"""Plans rest on MIG as discovered: foreign instances stay, and are used as they are."""

from partitiond.core.hardware.kinds import Device
from partitiond.core.mig.changes import MigChanges
from partitiond.core.mig.geometry import Place, geometry_on, place_of, profiles_of
from partitiond.devices.host import HostDevices
from partitiond.devices.mig import MigControl
from partitiond.simulated.gpus import SimulatedHost
from tests.devices.mig.test_control import CUT, NOWHERE


def seen(
    host: SimulatedHost, changes: MigChanges, own: list[Place] | None = None
) -> tuple[Device, Device]:
    devices = HostDevices(
        cpu=False,
        mig_changes=changes,
        mig_helper=NOWHERE,
        simulated_host=host.folder,
        own_instances=None if own is None else lambda uuid: own if uuid == host.uuids()[0] else [],
    )
    first, second = devices.discover()
    return first, second


def test_what_others_made_stays_and_may_be_used(host: SimulatedHost) -> None:
    first, empty = seen(host, "instances", own=CUT[:1])
    assert first.occupied_slices == (2, 3, 4, 5, 6, 7)
    geometry = geometry_on(first)
    assert geometry is not None
    assert geometry.places({"3g.40gb": 1, "1g.10gb": 4}) == [
        ("1g.10gb", 0, 1),
        ("1g.10gb", 1, 1),
        *CUT[1:],
    ]
    assert geometry.places({"3g.40gb": 2}) is None
    assert geometry.places({"4g.40gb": 1}) is None
    fresh = geometry_on(empty)
    assert fresh is not None
    assert fresh.places({"7g.80gb": 1}) is not None


def test_ours_make_room(host: SimulatedHost) -> None:
    first, _ = seen(host, "instances", own=CUT)
    assert first.occupied_slices == ()
    geometry = geometry_on(first)
    assert geometry is not None
    assert geometry.places({"7g.80gb": 1}) == [("7g.80gb", 0, 8)]


async def test_a_fixed_geometry_is_used_at_its_places_and_nothing_else(host: SimulatedHost) -> None:
    host.privileged(False)
    first, empty = seen(host, "never", own=[])
    assert first.mig_fixed
    geometry, none = geometry_on(first), geometry_on(empty)
    assert geometry is not None
    assert none is not None
    assert none.sets == ((0,) * len(profiles_of(empty)),)
    places = geometry.places({"3g.40gb": 1, "2g.20gb": 1, "1g.10gb": 2})
    assert places is not None
    assert geometry.places({"1g.10gb": 3}) is None
    # Where this user is not told places they are made up: by discovery and by control alike.
    there = await MigControl("never", NOWHERE).instances(first.id)
    assert sorted(places) == sorted(place_of(i) for i in there)
    assert {i.uuid for i in first.mig_instances} == {i.uuid for i in there}
