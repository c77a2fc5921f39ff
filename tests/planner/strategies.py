"""Draws random small instances of the planner's problem, with every partition kind and rule."""

import dataclasses

from hypothesis import strategies as st

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.model.spec import FaultDomain, Isolation, PlacementRules, Slo
from partitiond.core.plan.record import Candidate, ModelDemand
from tests.planner.build import cpu, gpu, in_mig, on_cores, point, want

MIG_PROFILES = ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")
GPU_KINDS = (SharingMode.MEMORY, SharingMode.MPS, SharingMode.MIG, SharingMode.WHOLE)
MIXED = (SharingMode.WHOLE, SharingMode.MEMORY, SharingMode.MPS, SharingMode.MIG)


@st.composite
def candidates(draw: st.DrawFn, name: str, kind: SharingMode, batch: int) -> Candidate:
    """One size of a model; figures on a coarse grid, so that ties and exact fits are common."""
    rate = float(draw(st.integers(2, 12)))
    watts = float(draw(st.sampled_from((40, 80, 200))))
    if kind is SharingMode.CORES:
        return dataclasses.replace(
            on_cores(name, rate, draw(st.integers(1, 3)), draw(st.integers(2, 9)), batch=batch),
            watts=watts,
        )
    if kind is SharingMode.MIG:
        profile = draw(st.sampled_from(MIG_PROFILES))
        gib = draw(st.sampled_from((4, 8, 12)))
        return in_mig(name, rate, profile, gib, batch=batch, watts=watts)
    return point(
        name,
        rate,
        draw(st.integers(14, 60)),
        sm=draw(st.sampled_from((20, 40, 60))) if kind is SharingMode.MPS else 0,
        mode=kind,
        busy=draw(st.sampled_from((0.0, 0.25, 0.5, 1.0))),
        batch=batch,
        latency=draw(st.sampled_from((0.01, 0.02))),
        kappa=draw(st.sampled_from((None, None, 0.0, 0.15))),
        host_gib=draw(st.sampled_from((0, 0, 8))),
        watts=watts,
    )


@st.composite
def rules(draw: st.DrawFn, others: tuple[str, ...], places: tuple[str, ...]) -> PlacementRules:
    """Usually one rule or none, sometimes several; names that exist, but for now and then one."""
    which = draw(
        st.sets(st.sampled_from(("avoid", "near", "only_on", "survive", "priority")), max_size=2)
    )
    company = tuple(dict.fromkeys((*others, "nobody") if draw(_rarely()) else others))
    names = st.lists(st.sampled_from(company), max_size=1) if company else st.just([])
    avoid = tuple(draw(names)) if "avoid" in which else ()
    near = tuple(n for n in draw(names) if n not in avoid) if "near" in which else ()
    only_on = tuple(draw(st.lists(st.sampled_from(places), min_size=1, max_size=2, unique=True)))
    return PlacementRules(
        avoid=avoid,
        near=near,
        only_on=only_on if "only_on" in which else (),
        survive=draw(st.sampled_from(FaultDomain)) if "survive" in which else None,
        survive_share=draw(st.sampled_from((1.0, 0.5, 0.25))),
        priority=draw(st.sampled_from((-1, 1))) if "priority" in which else 0,
    )


def _rarely() -> st.SearchStrategy[bool]:
    return st.integers(0, 9).map(lambda n: n == 9)


@st.composite
def models(
    draw: st.DrawFn,
    kinds: tuple[SharingMode, ...] = (SharingMode.MEMORY, SharingMode.MPS),
    *,
    rated: bool = True,
    most: int = 3,
    places: tuple[str, ...] = (),
) -> tuple[ModelDemand, ...]:
    """Up to `most` models with up to two sizes each; with rules where places are given."""
    names = [f"m{number}" for number in range(draw(st.integers(1, most)))]
    found = []
    for name in names:
        sizes = [
            draw(candidates(name, draw(st.sampled_from(kinds)), batch))
            for batch in range(1, draw(st.integers(1, 2)) + 1)
        ]
        others = tuple(other for other in names if other != name)
        rate = float(draw(st.integers(2, 20))) + 0.01
        found.append(
            want(
                name,
                *sizes,
                rate=rate if rated or draw(st.booleans()) else None,
                min_replicas=draw(st.sampled_from((0, 0, 2))),
                max_replicas=draw(st.sampled_from((None, None, 3))),
                isolation=draw(st.sampled_from((*(Isolation.SHARED,) * 3, *Isolation))),
                slo=draw(st.sampled_from((None, Slo(1.0, 0.025)))),
                rules=draw(rules(others, places)) if places else PlacementRules(),
                isolation_group=draw(st.sampled_from(("", "", "b"))),
            )
        )
    return tuple(found)


@st.composite
def fleets(
    draw: st.DrawFn,
    modes: tuple[SharingMode, ...] = (SharingMode.WHOLE, SharingMode.MEMORY, SharingMode.MPS),
    *,
    most: int = 3,
    limits: bool = False,
) -> tuple[Device, ...]:
    """One to `most` devices of up to two prices, round or in cents, on up to three hosts.

    Args:
        modes: sharing modes allowed; with `CORES` CPU devices, one a host, instead of GPUs.
        most: devices.
        limits: some are cordoned, partly occupied, or limited in replicas.
    """
    price = draw(st.one_of(st.just(1.0), st.integers(1, 500).map(lambda cents: cents / 100)))
    found = []
    for i in range(draw(st.integers(1, most))):
        if modes == (SharingMode.CORES,):
            device = cpu(draw(st.integers(1, 4)), gib=24, host=f"node-{i}")
            device = dataclasses.replace(device, id=f"cpu-{i}", max_watts=200.0)
        else:
            device = gpu(f"gpu-{i}", modes=modes, host=f"node-{draw(st.integers(0, 2))}")
        device = dataclasses.replace(
            device,
            price_per_hour=draw(st.sampled_from((price, price, 2 * price))),
            rack=draw(st.sampled_from(("", "rack-0", "rack-1"))),
        )
        found.append(_limited(draw, device) if limits else device)
    return tuple(found)


def _limited(draw: st.DrawFn, device: Device) -> Device:
    kind = draw(st.sampled_from(("", "", "cordoned", "replicas", "sm", "slices", "group")))
    if kind == "cordoned":
        return dataclasses.replace(device, cordoned=True)
    if kind == "replicas":
        return dataclasses.replace(device, max_replicas=draw(st.integers(0, 3)))
    if kind == "sm" and SharingMode.MPS in device.modes:
        return dataclasses.replace(device, occupied_sm_percent=draw(st.sampled_from((20, 50))))
    if kind == "group":
        return dataclasses.replace(device, mps_group=draw(st.sampled_from(("", "b"))))
    if kind == "slices" and SharingMode.MIG in device.modes:
        start = draw(st.integers(0, 3))
        slices = tuple(range(2 * start, 2 * start + 2))
        return dataclasses.replace(device, occupied_slices=slices)
    return device


def with_percentile(model: ModelDemand, percentile: float) -> ModelDemand:
    """The same demand, planned for a percentile of its arrivals."""
    demand = dataclasses.replace(model.demand, percentile=percentile)
    return dataclasses.replace(model, demand=demand)
