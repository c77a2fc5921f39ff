"""A device's kind and limits leave the right ways to run it."""

import dataclasses

import pytest

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.model.spec import Isolation
from partitiond.core.plan.record import ModelDemand
from partitiond.planner.model.instance import build_instance, open_modes
from partitiond.planner.model.types import Group, Instance, PlanRequest
from tests.planner.build import gpu, in_mig, point, want
from tests.planner.check.make import placed

EVERY = (SharingMode.WHOLE, SharingMode.MEMORY, SharingMode.MPS, SharingMode.MIG)


def device(name: str = "gpu-0", **changes: object) -> Device:
    """A GPU that allows every mode."""
    return dataclasses.replace(gpu(name, modes=EVERY), **changes)  # type: ignore[arg-type]


def both(model: str = "m", **more: object) -> ModelDemand:
    """A model with a candidate for each way to share."""
    sizes = point(model, 1, 8, sm=30), point(model, 1, 8), in_mig(model, 1, "2g.20gb", 8)
    return want(model, *sizes, rate=1, **more)


def instance_of(*devices: Device, models: tuple[ModelDemand, ...] = ()) -> Instance:
    """The instance of some devices."""
    return build_instance(PlanRequest(devices, models or (both(),)))


def group_of(*devices: Device, models: tuple[ModelDemand, ...] = ()) -> Group:
    """The group of devices that are all alike."""
    (group,) = instance_of(*devices, models=models).groups
    return group


ALONE = both(isolation=Isolation.DEVICE)
SHARED = {SharingMode.MEMORY, SharingMode.MPS, SharingMode.MIG}


@pytest.mark.parametrize(
    ("there", "model", "modes"),
    [
        (device(), both(), SHARED),
        (gpu(), both(), {SharingMode.MEMORY, SharingMode.MPS}),
        (device(), both(isolation=Isolation.SHARED), SHARED),
        (device(), both(isolation=Isolation.HARDWARE), {None, SharingMode.MIG}),
        (device(), ALONE, {None}),
        # Nobody is alone on a device that others use, and what they hold is not given away.
        (device(occupied_slices=(0,)), ALONE, set()),
        (device(occupied_sm_percent=10), ALONE, set()),
        (device(occupied_sm_percent=75), both(), set()),
        (device(occupied_sm_percent=70), both(), {SharingMode.MPS}),
        (device(occupied_slices=(6,)), want("m", in_mig("m", 1, "4g.40gb")), {SharingMode.MIG}),
        (device(occupied_slices=(2,)), want("m", in_mig("m", 1, "4g.40gb")), set()),
        (device(), want("m", in_mig("m", 1, "2g.10gb")), set()),  # of another GPU
    ],
)
def test_a_device_offers_its_modes_as_others_and_isolation_leave_them(
    there: Device, model: ModelDemand, modes: set[SharingMode | None]
) -> None:
    assert {option.mode for option in group_of(there, models=(model,)).options} == modes


def test_a_size_that_runs_is_never_left_out_for_one_that_is_as_good() -> None:
    """Neither a whole device for a memory share, nor a share for one that takes less."""
    whole, share, large = (
        point("m", 1, 8, mode=SharingMode.WHOLE), point("m", 1, 8), point("m", 1, 9)
    )  # fmt: skip
    for running, kept in (((), {share}), ((whole,), {whole, share}), ((large,), {share, large})):
        here = tuple(placed(c, n) for n, c in enumerate(running))
        models = (want("m", whole, share, large, rate=1),)
        instance = build_instance(PlanRequest((device(),), models, running=here))
        (group,) = instance.groups
        held = {instance.items[i].candidate for fit in group.fits for i in fit}
        assert held == kept


def test_the_sms_that_others_hold_are_not_there() -> None:
    for held, left in ((0, 100), (70, 30), (130, 0)):
        assert group_of(device(occupied_sm_percent=held)).sm_percent == left


@pytest.mark.parametrize(
    "changes",
    [
        {"cordoned": True},
        {"max_replicas": 0},
        {"occupied_slices": (0,), "modes": (SharingMode.MPS,)},
    ],
)
def test_a_closed_device_offers_nothing(changes: dict[str, object]) -> None:
    assert open_modes(device(**changes)) == ()  # type: ignore[arg-type]
    assert group_of(device(**changes)).options == ()  # type: ignore[arg-type]


def test_mig_has_one_level_and_a_geometry_and_nothing_is_shared() -> None:
    instance = instance_of(device())
    (option,) = (o for o in instance.groups[0].options if o.mode is SharingMode.MIG)
    assert (option.level, option.max_items) == (1.0, 7)
    assert option.geometry is not None
    (item,) = (i for i in instance.items if i.mig_profile)
    assert (item.busy, item.sm, item.kappa) == (0, 0, 0.0)
    limited = group_of(device(max_replicas=3)).options
    assert {option.max_items for option in limited if option.level > 2} == {3}
    assert max(option.max_items for option in limited) == 3, "in every mode"


@pytest.mark.parametrize(
    ("changes", "alike"),
    [
        ({"cordoned": True}, False),
        ({"max_replicas": 2}, False),
        ({"occupied_sm_percent": 10}, False),
        ({"occupied_slices": (6,)}, False),
        ({"price_per_hour": 3.0}, False),
        ({"modes": (SharingMode.MPS,)}, False),
        ({"host": "y", "rack": "r", "idle_watts": 9.0, "max_watts": 99.0}, True),
    ],
)
def test_what_differs_is_not_interchangeable(changes: dict[str, object], alike: bool) -> None:
    instance = instance_of(device("a"), device("b", **changes), device("c"))
    expected = {(0, 1, 2)} if alike else {(0, 2), (1,)}
    assert {group.bins for group in instance.groups} == expected
