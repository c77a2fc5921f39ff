"""Makes questions in which one aspect is likely that chance alone seldom brings about."""

import dataclasses
import random
from collections.abc import Callable
from typing import Final

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.model.spec import FaultDomain, Isolation, PlacementRules
from partitiond.core.performance.interference import Interference
from partitiond.core.plan.record import Candidate, ModelDemand, Objective
from partitiond.core.units import Bytes
from tests.oracle.truth import Question, usable

MANY_LEVELS: Final = Interference(
    (1.0, 1.05, 1.1, 1.2, 1.35, 1.6, 2.1), (1.0, 1.04, 1.1, 1.2, 1.35, 1.6, 2.1), 0.05, 0.02, 0.01
)
PRIORITIES: Final = (2, 1, 0, -1, -2)


def _priorities(rng: random.Random, question: Question) -> Question:
    """Models of several priorities, whose demands are far apart, on too few devices."""
    ranks = rng.sample(PRIORITIES, len(question.models))
    models = tuple(
        dataclasses.replace(
            m,
            rules=dataclasses.replace(m.rules, priority=rank),
            min_replicas=rng.choice((0, 0, 0, m.min_replicas)),
            demand=m.demand
            if m.demand.req_per_s is None
            else dataclasses.replace(
                m.demand, req_per_s=min(1e6, m.demand.req_per_s * rng.choice((1.0, 1.0, 3.0, 1e4)))
            ),
        )
        for m, rank in zip(question.models, ranks, strict=True)
    )
    goal = rng.choice((Objective.MAX_GOODPUT, Objective.MAX_GOODPUT, Objective.MIN_DEVICES))
    few = question.devices[: rng.choice((1, 1, 2))]
    return dataclasses.replace(question, models=models, objective=goal, devices=few)


def _crowded(rng: random.Random, question: Question) -> Question:
    """Many small replicas on a device, and many levels of interference."""
    device = question.devices[0]

    def small(c: Candidate) -> Candidate:
        if c.size.mode not in {SharingMode.MEMORY, SharingMode.MPS}:
            return c
        part = rng.choice((4, 5, 6))
        size = dataclasses.replace(c.size, sm_percent=min(c.size.sm_percent, 100 // part))
        if c.size.mode is SharingMode.MEMORY:
            size = c.size
        return dataclasses.replace(
            c,
            size=dataclasses.replace(size, cores=0),
            memory_bytes=Bytes(usable(device) // (part + rng.choice((0, 1)))),
            busy=rng.choice((0.0, 0.1, 1 / 7, 1 / 5, 0.3, rng.random() / 2)),
            kappa=rng.choice((None, 0.0, 0.01, 0.05)),
        )

    models = tuple(
        dataclasses.replace(m, candidates=tuple(small(c) for c in m.candidates[:2]))
        for m in question.models[: rng.choice((1, 2))]
    )
    few = question.devices[: rng.choice((1, 1, 2))]
    return dataclasses.replace(question, models=models, devices=few, interference=MANY_LEVELS)


def _hosts(rng: random.Random, question: Question) -> Question:
    """Cores and memory of hosts, which devices share and have to be divided."""
    number = rng.choice((1, 2, 3, 4))
    devices = tuple(
        dataclasses.replace(
            d,
            host=rng.choice(("h0", "h0", "h1")),
            # Lists that overlap, are the same, or have nothing in common.
            cores=tuple(range(n := rng.choice((0, 0, 1)), n + number)),
        )
        for d in question.devices
    )
    base = usable(question.devices[0])
    stated = tuple((host, rng.choice((base, base // 2, base // 3 - 1))) for host in ("h0", "h1"))[
        : rng.choice((1, 2))
    ]

    def hungry(c: Candidate) -> Candidate:
        cores = rng.choice((1, 1, 2)) if number > 1 else 1
        most = Bytes(rng.choice((base // 4, base // 3, base // 3 + 1)))
        return dataclasses.replace(
            c, size=dataclasses.replace(c.size, cores=cores), host_memory_bytes=most
        )

    models = tuple(
        dataclasses.replace(m, candidates=tuple(hungry(c) for c in m.candidates))
        for m in question.models
    )
    return dataclasses.replace(question, devices=devices, models=models, host_memory_bytes=stated)


def _kinds(rng: random.Random, question: Question) -> Question:
    """Every size on all kinds of GPU there are, each with figures of its own."""
    kinds = sorted({d.hardware for d in question.devices if d.hardware in HARDWARE})

    def on(c: Candidate, kind: str) -> Candidate:
        return dataclasses.replace(
            c,
            profile_id=f"{c.profile_id}-{kind}",
            hardware=kind,
            capacity_req_per_s=c.capacity_req_per_s * rng.choice((1.0, 2.0, 1 / 3, 1.1)),
            busy=rng.choice((c.busy, c.busy / 2)),
        )

    models = tuple(
        dataclasses.replace(
            m,
            candidates=tuple(
                on(c, kind)
                for c in m.candidates[:2]
                if c.size.mode in {SharingMode.MEMORY, SharingMode.MPS, SharingMode.WHOLE}
                for kind in kinds
            )
            or m.candidates,
        )
        for m in question.models
    )
    return dataclasses.replace(question, models=models)


def _rules(rng: random.Random, question: Question) -> Question:
    """Several rules of a model at once, and limits of its number."""

    def ruled(m: ModelDemand) -> ModelDemand:
        others = [x.model for x in question.models if x.model != m.model]
        rng.shuffle(others)
        rules = PlacementRules(
            avoid=tuple(others[:1]) if rng.random() < 0.4 else (),
            near=tuple(others[1:2]) if rng.random() < 0.4 else (),
            only_on=_places(rng, question.devices) if rng.random() < 0.3 else (),
            survive=rng.choice(list(FaultDomain)) if rng.random() < 0.4 else None,
            survive_share=rng.choice((0.5, 1.0, 1 / 3)),
            priority=m.rules.priority,
        )
        least = rng.choice((0, 0, 1, 2))
        return dataclasses.replace(
            m,
            rules=rules,
            min_replicas=least,
            max_replicas=rng.choice((None, max(1, least), least + 1)),
            isolation=rng.choice((Isolation.SHARED, Isolation.SHARED, m.isolation)),
        )

    return dataclasses.replace(question, models=tuple(ruled(m) for m in question.models))


def _places(rng: random.Random, devices: tuple[Device, ...]) -> tuple[str, ...]:
    one, other = rng.choice(devices), rng.choice(devices)
    return tuple({one.id, rng.choice((other.host, other.rack or other.id, other.hardware))})


Aspect = Callable[[random.Random, Question], Question]
ASPECTS: Final[tuple[Aspect, ...]] = (_priorities, _crowded, _hosts, _kinds, _rules)
