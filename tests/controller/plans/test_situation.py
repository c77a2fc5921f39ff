"""Changes of devices that limit a plan make it outdated; other changes do not."""

import dataclasses
from typing import Any

from partitiond.controller.plans.situation import (
    Basis,
    Situation,
    _version_of_spec,
    changes_between,
)
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.kinds import Device, ForeignProcess, MigInstance, SharingMode
from partitiond.core.model.autoscale import Autoscale
from partitiond.core.model.spec import Demand
from partitiond.core.units import GIB, Bytes
from tests.controller.samples import record
from tests.devices.fake import fake_gpus

(GPU,) = fake_gpus("a100-80gb")
INSTANCE = MigInstance("3g.40gb", 4, 4, Bytes(40 * GIB), "MIG-a")


def basis(device: Device) -> Basis:
    return Situation((), (), (device,), ()).basis("plan-1")


NEVER_STILL: list[dict[str, Any]] = [
    {"free_bytes": Bytes(GIB)},
    {"foreign": (ForeignProcess(7, Bytes(GIB)),)},
    {"health": DeviceHealth.DEGRADED, "health_reason": "91 °C"},
    {"mig_instances": (INSTANCE,)},
]
LIMITS: list[dict[str, Any]] = [
    {"modes": ()},
    {"modes": (SharingMode.MIG,)},
    {"cordoned": True},
    {"mig_fixed": True},
    {"occupied_sm_percent": 30},
    {"occupied_slices": (0, 1)},
    {"max_replicas": 1},
    {"core_nodes": ((0,), (1,))},
    {"max_watts": 200.0},
    {"idle_watts": 20.0},
    {"host": "another"},
    {"rack": "r2"},
    {"price_per_hour": 9.0},
    {"reserved_bytes": GIB},
]


def test_what_limits_a_plan_outdates_it_and_what_is_never_still_does_not() -> None:
    for changes, same in ((NEVER_STILL, True), (LIMITS, False)):
        for change in changes:
            changed = dataclasses.replace(GPU, **change)
            assert (basis(changed) == basis(GPU)) is same, change


def test_a_fixed_geometry_limits_a_plan_by_its_instances_not_by_their_uuids() -> None:
    fixed = dataclasses.replace(GPU, mig_fixed=True, mig_instances=(INSTANCE,))
    renamed = dataclasses.replace(INSTANCE, uuid="MIG-b")
    assert basis(dataclasses.replace(fixed, mig_instances=(renamed,))) == basis(fixed)
    assert basis(dataclasses.replace(fixed, mig_instances=())) != basis(fixed)


def of_model(**changes: object) -> Basis:
    return Situation((record("a", **changes),), (), (GPU,), ()).basis("plan-1")


def test_what_a_config_told_outdates_no_plan() -> None:
    told = of_model(built_for=4096)
    _version_of_spec.cache_clear()  # which takes equal specifications for one
    assert of_model() == told


def test_a_demand_that_is_told_outdates_a_plan_and_a_measured_one_does_not() -> None:
    one, two = Demand(req_per_s=1.0), Demand(req_per_s=2.0)
    assert of_model(demand=one) != of_model(demand=two)
    measured = Autoscale()
    assert of_model(demand=one, autoscale=measured) == of_model(demand=two, autoscale=measured)
    assert of_model(demand=one, autoscale=measured) != of_model(demand=one)


def test_what_changed_is_told_by_name_and_briefly() -> None:
    before = {"model a": 1, "model b": 2, "device 0": 3}
    assert changes_between(before, dict(before)) == ""
    assert changes_between(before, {"model a": 1, "device 0": 4}) == "model b, device 0"
    assert changes_between(before, {"model c": 1}) == "model a, model b, device 0 and 1 more"
