"""Changes of devices that limit a plan make it outdated; other changes do not."""

import dataclasses

import pytest

from partitiond.controller.plans.situation import Situation
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.kinds import Device, ForeignProcess, MigInstance
from partitiond.core.model.autoscale import Autoscale
from partitiond.core.model.spec import Demand
from partitiond.core.units import GIB, Bytes
from partitiond.devices.fake import fake_gpus
from tests.controller.samples import record

(GPU,) = fake_gpus("a100-80gb")
INSTANCE = MigInstance("3g.40gb", 4, 4, Bytes(40 * GIB), "MIG-a")


def fingerprint(device: Device) -> str:
    return Situation((), (), (device,), ()).fingerprint("plan-1")


@pytest.mark.parametrize(
    "change",
    [
        {"free_bytes": Bytes(GIB)},
        {"foreign": (ForeignProcess(7, Bytes(GIB)),)},
        {"health": DeviceHealth.DEGRADED, "health_reason": "91 °C"},
        {"mig_instances": (INSTANCE,)},
    ],
)
def test_what_is_never_still_outdates_no_plan(change: dict[str, object]) -> None:
    changed = dataclasses.replace(GPU, **change)  # type: ignore[arg-type]
    assert fingerprint(changed) == fingerprint(GPU)


@pytest.mark.parametrize(
    "change",
    [{"cordoned": True}, {"occupied_slices": (0, 1)}, {"mig_fixed": True}, {"modes": ()}],
)
def test_what_limits_a_plan_does(change: dict[str, object]) -> None:
    changed = dataclasses.replace(GPU, **change)  # type: ignore[arg-type]
    assert fingerprint(changed) != fingerprint(GPU)


def test_a_fixed_geometry_limits_a_plan_by_its_instances_not_by_their_uuids() -> None:
    fixed = dataclasses.replace(GPU, mig_fixed=True, mig_instances=(INSTANCE,))
    renamed = dataclasses.replace(INSTANCE, uuid="MIG-b")
    assert fingerprint(dataclasses.replace(fixed, mig_instances=(renamed,))) == fingerprint(fixed)
    assert fingerprint(dataclasses.replace(fixed, mig_instances=())) != fingerprint(fixed)


def of_model(**changes: object) -> str:
    return Situation((record("a", **changes),), (), (GPU,), ()).fingerprint("plan-1")


def test_a_demand_that_is_told_outdates_a_plan_and_a_measured_one_does_not() -> None:
    one, two = Demand(req_per_s=1.0), Demand(req_per_s=2.0)
    assert of_model(demand=one) != of_model(demand=two)
    measured = Autoscale()
    assert of_model(demand=one, autoscale=measured) == of_model(demand=two, autoscale=measured)
    assert of_model(demand=one, autoscale=measured) != of_model(demand=one)
