"""A device's kind and limits leave the right ways to run it."""

import dataclasses

import pytest

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.spec import Isolation, PlacementRules
from partitiond.core.performance.interference import DEFAULT
from partitiond.core.plan.record import Candidate, ModelDemand
from partitiond.planner.model.instance import build_instance, open_modes, options_of
from partitiond.planner.model.types import Group, Instance, PlanRequest
from tests.planner.build import gpu, point, want

EVERY = (SharingMode.WHOLE, SharingMode.MEMORY, SharingMode.MPS, SharingMode.MIG)


def device(name: str = "gpu-0", **changes: object) -> Device:
    """A GPU that allows every mode."""
    return dataclasses.replace(gpu(name, modes=EVERY), **changes)  # type: ignore[arg-type]


def on_slice(model: str, name: str = "2g.20gb", rate: float = 1) -> Candidate:
    """A candidate in a GPU instance."""
    found = point(model, rate, 8, mode=SharingMode.MIG)
    return dataclasses.replace(found, size=PartitionSize(SharingMode.MIG, 1, 100, name))


def both(model: str = "m", **more: object) -> ModelDemand:
    """A model with a candidate for each way to share."""
    return want(
        model, point(model, 1, 8, sm=30), point(model, 1, 8), on_slice(model), rate=1, **more
    )


def instance_of(*devices: Device, models: tuple[ModelDemand, ...] = ()) -> Instance:
    """The instance of some devices."""
    return build_instance(PlanRequest(devices, models or (both(),)))


def group_of(*devices: Device, models: tuple[ModelDemand, ...] = ()) -> Group:
    """The group of devices that are all alike."""
    (group,) = instance_of(*devices, models=models).groups
    return group


def modes_in(group: Group) -> set[SharingMode | None]:
    """Ways to run one of its devices; None is alone."""
    return {option.mode for option in group.options}


def test_a_device_offers_its_modes() -> None:
    assert modes_in(group_of(device())) == {SharingMode.MEMORY, SharingMode.MPS, SharingMode.MIG}
    assert modes_in(group_of(gpu())) == {SharingMode.MEMORY, SharingMode.MPS}


@pytest.mark.parametrize(
    ("changes", "modes"),
    [
        ({"cordoned": True}, ()),
        ({"max_replicas": 0}, ()),
        ({"occupied_slices": (0,)}, (SharingMode.MIG,)),
        ({"occupied_sm_percent": 20}, (SharingMode.MPS,)),
        ({"occupied_slices": (0,), "modes": (SharingMode.MPS,)}, ()),
        ({}, EVERY),
    ],
)
def test_others_and_limits_decide_the_mode(
    changes: dict[str, object], modes: tuple[SharingMode, ...]
) -> None:
    there = device(**changes)  # type: ignore[arg-type]
    assert open_modes(there) == modes
    alone = [option for option in options_of(there, DEFAULT, ()) if option.mode is None]
    assert len(alone) == (not changes)
    if not modes:
        assert group_of(there).options == ()


def test_a_limit_on_replicas_holds_in_every_mode() -> None:
    options = group_of(device(max_replicas=3)).options
    assert {option.max_items for option in options if option.level > 2} == {3}
    assert max(option.max_items for option in options) == 3


def test_occupied_sms_are_not_given_away() -> None:
    half = device(occupied_sm_percent=75)
    assert group_of(half).sm_percent == 25
    assert group_of(half).options == ()
    less = device(occupied_sm_percent=70)
    assert modes_in(group_of(less)) == {SharingMode.MPS}


def test_mig_has_one_level_and_a_geometry_and_nothing_is_shared() -> None:
    instance = instance_of(device())
    (option,) = (o for o in instance.groups[0].options if o.mode is SharingMode.MIG)
    assert (option.level, option.max_items) == (1.0, 7)
    assert option.geometry is not None
    (item,) = (i for i in instance.items if i.mig_profile)
    assert (item.busy, item.sm, item.kappa) == (0, 0, 0.0)


def test_a_mig_profile_of_another_gpu_is_not_offered() -> None:
    wrong = want("m", on_slice("m", "2g.10gb"), rate=1)
    assert instance_of(device(), models=(wrong,)).hopeless == (0,)


def test_no_instance_fits_beside_what_others_hold() -> None:
    large = want("m", on_slice("m", "4g.40gb"), rate=1)
    assert group_of(device(occupied_slices=(6,)), models=(large,)).options != ()
    assert group_of(device(occupied_slices=(2,)), models=(large,)).options == ()


@pytest.mark.parametrize(
    ("isolation", "modes"),
    [
        (Isolation.SHARED, {SharingMode.MEMORY, SharingMode.MPS, SharingMode.MIG}),
        (Isolation.HARDWARE, {None, SharingMode.MIG}),
        (Isolation.DEVICE, {None}),
    ],
)
def test_isolation_decides_the_ways(isolation: Isolation, modes: set[SharingMode | None]) -> None:
    assert modes_in(group_of(device(), models=(both(isolation=isolation),))) == modes


def test_nobody_is_alone_on_a_device_that_others_use() -> None:
    alone = both(isolation=Isolation.DEVICE)
    assert group_of(device(occupied_slices=(0,)), models=(alone,)).options == ()
    assert group_of(device(occupied_sm_percent=10), models=(alone,)).options == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"cordoned": True},
        {"max_replicas": 2},
        {"occupied_sm_percent": 10},
        {"occupied_slices": (6,)},
        {"price_per_hour": 3.0},
        {"modes": (SharingMode.MPS,)},
    ],
)
def test_what_differs_is_not_interchangeable(changes: dict[str, object]) -> None:
    instance = instance_of(device("a"), device("b", **changes), device("c"))
    assert {group.bins for group in instance.groups} == {(0, 2), (1,)}


def test_host_rack_and_power_do_not_part_devices() -> None:
    there = (device("a", host="x", rack="r"), device("b", host="y", idle_watts=9, max_watts=99))
    assert len(instance_of(*there).groups) == 1


def test_only_on_parts_devices_and_keeps_models_off() -> None:
    here = (device("a", rack="r"), device("b"))
    rules = PlacementRules(only_on=("r",))
    instance = instance_of(*here, models=(both("m", rules=rules), both("n")))
    held = {
        group.bins: {instance.items[i].candidate.model for fit in group.fits for i in fit}
        for group in instance.groups
    }
    assert held == {(0,): {"m", "n"}, (1,): {"n"}}
