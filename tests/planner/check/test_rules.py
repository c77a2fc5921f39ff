"""Replicas are where the rules of their model allow it, and enough is left after a loss."""

import dataclasses

from partitiond.core.model.spec import FaultDomain, PlacementRules
from partitiond.core.plan.record import ModelDemand, Placement, Unplaced
from tests.planner.build import gpu, point, want
from tests.planner.check.make import lines, placed, said

A, B, C = (point(m, 4, 10) for m in "abc")
DEVICES = (
    gpu("g0", host="h0", rack="r0"),
    gpu("g1", host="h0", rack="r0"),
    gpu("g2", host="h1", rack="r0"),
    gpu("g3", host="h2"),
)


def asked(rules: PlacementRules, *, rate: float | None = None) -> tuple[ModelDemand, ...]:
    """Models `a`, with these rules, `b` and `c`."""
    return want("a", A, rate=rate, rules=rules), want("b", B), want("c", C)


def spread(a: str, b: str = "3", c: str = "3") -> tuple[Placement, ...]:
    """Placements of the models, by the digits of their devices: "01" is on g0 and g1."""
    return tuple(
        placed(candidate, number, f"g{where}")
        for candidate, devices in ((A, a), (B, b), (C, c))
        for number, where in enumerate(devices, start=1)
    )


def test_models_that_avoid_each_other_share_no_device() -> None:
    for where, says in (
        (spread("0"), ""),
        (spread("0", "0"), "a avoids b and shares g0 with it"),
        (spread("01", "10"), " | ".join(f"a avoids b and shares g{n} with it" for n in (0, 1))),
        (spread("0", "0", "0"), "a avoids b and shares g0 with it"),
    ):
        assert said(DEVICES, where, asked(PlacementRules(avoid=("b", "a", "none")))) == lines(says)


def test_several_models_are_avoided_by_their_names() -> None:
    found = said(DEVICES, spread("0", "0", "0"), asked(PlacementRules(avoid=("c", "b"))))
    assert found == tuple(f"a avoids {m} and shares g0 with it" for m in "bc")


def test_models_are_near_to_the_models_they_need() -> None:
    for where, near, says in (
        (spread("0", "0"), ("b",), ""),
        (spread("0", "1"), ("b",), ""),
        (spread("0", "2"), ("b",), "a is on host h0 without b, which it must be near to"),
        (spread("02", "1"), ("b",), "a is on host h1 without b, which it must be near to"),
        (spread("0", "1"), ("b", "c"), "a is on host h0 without c, which it must be near to"),
        (spread("0", "1", "1"), ("b", "c"), ""),
    ):
        assert said(DEVICES, where, asked(PlacementRules(near=near))) == lines(says)


def lost(kind: FaultDomain, share: float = 1.0) -> PlacementRules:
    """A share of the rate survives the loss of one of these."""
    return PlacementRules(survive=kind, survive_share=share)


EIGHT = "a keeps 8 of 8.8 requests/s when host {} is lost"
DEVICE, HOST, RACK = FaultDomain.DEVICE, FaultDomain.HOST, FaultDomain.RACK


def test_enough_is_left_when_a_fault_domain_is_lost() -> None:
    for rules, rate, where, says in (
        # Four requests/s a replica.
        (lost(DEVICE), 4.0, "01", ""),
        (lost(DEVICE), 4.0, "0", "a keeps 0 of 4 requests/s when device g0 is lost"),
        (lost(DEVICE), 4.0, "00", "a keeps 0 of 4 requests/s when device g0 is lost"),
        (lost(DEVICE), 8.0, "012", ""),
        (lost(DEVICE), 8.0, "001", "a keeps 4 of 8 requests/s when device g0 is lost"),
        (lost(DEVICE, 0.5), 8.0, "001", ""),
        (lost(DEVICE, 0.51), 8.0, "001", "a keeps 4 of 4.08 requests/s when device g0 is lost"),
        (lost(HOST), 4.0, "01", "a keeps 0 of 4 requests/s when host h0 is lost"),
        (lost(HOST), 8.8, "0122", " | ".join(EIGHT.format(h) for h in ("h0", "h1"))),
        (lost(RACK), 4.0, "02", "a keeps 0 of 4 requests/s when rack r0 is lost"),
        # A device without a rack counts by its host.
        (lost(RACK), 4.0, "03", ""),
        (lost(RACK), 4.0, "33", "a keeps 0 of 4 requests/s when host h2 is lost"),
        # Without a rate one replica is enough.
        (lost(DEVICE), None, "01", ""),
        (lost(DEVICE), None, "00", "a has no replica left when device g0 is lost"),
        (lost(HOST), None, "01", "a has no replica left when host h0 is lost"),
        (PlacementRules(), 4.0, "0", ""),
    ):
        assert said(DEVICES, spread(where), asked(rules, rate=rate)) == lines(says)


def test_a_model_that_is_listed_as_unplaced_need_not_survive_and_keeps_its_other_rules() -> None:
    rules = dataclasses.replace(lost(DEVICE), avoid=("b",), only_on=("g0",))
    wrong = ("a avoids b and shares g3 with it", "a-1 is on g3, a may only be on g0")
    for where, says in (("0", ()), ("3", wrong)):
        out = (Unplaced("a", "no", 0.0),)
        assert said(DEVICES, spread(where), asked(rules, rate=4.0), unplaced=out) == says
