"""Draws what runs before a question is asked, and what has changed since it was started."""

import dataclasses
import random
from typing import Final

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.hardware.partition import (
    CpuCores,
    MemoryShare,
    MigSlice,
    MpsShare,
    Partition,
    WholeDevice,
)
from partitiond.core.plan.record import Candidate, ModelDemand, Placement
from partitiond.core.units import Bytes
from tests.oracle.truth import Chosen, Load, Question, hosts_hold, load_of, starts_of, usable

PRICES: Final = (0.25, 0.25, 0.25, 0.0, 0.1, 1.0, 3.0)


def with_running(rng: random.Random, question: Question) -> Question:
    """The question with replicas that run, most of which could stay."""
    models = tuple(_with_forms(rng, m) for m in question.models)
    question = dataclasses.replace(question, models=models)
    running = tuple(_running(rng, question))
    asked = dataclasses.replace(
        question,
        running=running,
        move_price=rng.choice(PRICES),
        allow_outage=rng.random() < 0.15,
        models=tuple(
            dataclasses.replace(m, allow_outage=rng.random() < 0.15) for m in question.models
        ),
    )
    for change in rng.sample(CHANGES, rng.choice((0, 1, 1, 2, 3))):
        asked = change(rng, asked)
    return asked


def _with_forms(rng: random.Random, model: ModelDemand) -> ModelDemand:
    return dataclasses.replace(
        model,
        candidates=tuple(
            dataclasses.replace(
                c, variant=rng.choice(("", "", "int8")), release=rng.choice(("", "r1", "r1"))
            )
            for c in model.candidates
        ),
    )


def _running(rng: random.Random, question: Question) -> list[Placement]:
    """A few replicas on each device, of one mode, as many as fit and the draw asks for."""
    loads = {d.id: Load() for d in question.devices}
    found: list[Placement] = []
    for device in question.devices:
        pairs = [(m, c) for m in question.models for c in m.candidates]
        chosen: Chosen = ()
        for _ in range(rng.choice((0, 1, 1, 2, 3, 4))):
            grown = (*chosen, rng.choice(pairs)) if pairs else chosen
            load = load_of(question, device, grown) if pairs else None
            if load is None:
                continue
            before, loads[device.id] = loads[device.id], load
            if hosts_hold(question, [], tuple(loads.values())):
                chosen = grown
            else:
                loads[device.id] = before
        found += _placed(device, chosen, len(found))
    return found


def _placed(device: Device, chosen: Chosen, number: int) -> list[Placement]:
    names = [c.size.mig_profile for _, c in chosen if c.size.mode is SharingMode.MIG]
    starts = (names and starts_of(device, names)) or []
    cores = list(device.cores)
    placements: list[Placement] = []
    for demand, c in chosen:
        partition: Partition
        on, memory = device.id, c.memory_bytes
        match c.size.mode:
            case SharingMode.MIG:
                name, start = starts.pop(
                    next(k for k, (name, _) in enumerate(starts) if name == c.size.mig_profile)
                )
                partition = MigSlice(on, memory, name, start, _slices(device, name))
            case SharingMode.CORES:
                mine, cores = tuple(cores[: c.size.cores]), cores[c.size.cores :]
                partition = CpuCores(on, memory, mine)
            case SharingMode.MPS:
                group = demand.isolation_group
                partition = MpsShare(on, memory, c.size.sm_percent, isolation_group=group)
            case SharingMode.MEMORY:
                partition = MemoryShare(on, memory)
            case _:
                partition = WholeDevice(on, memory)
        name = f"{demand.model}-{number + len(placements) + 1}"
        placements.append(Placement(name, demand.model, on, partition, c))
    return placements


def _slices(device: Device, name: str) -> int:
    return next(p.memory_slices for p in HARDWARE[device.hardware].mig_profiles if p.name == name)


def _a_device(rng: random.Random, question: Question, **new: object) -> Question:
    at = rng.randrange(len(question.devices))
    devices = [*question.devices]
    devices[at] = dataclasses.replace(devices[at], **new)  # type: ignore[arg-type]
    return dataclasses.replace(question, devices=tuple(devices))


def _gone(rng: random.Random, question: Question) -> Question:
    if len(question.devices) < 2:
        return question
    at = rng.randrange(len(question.devices))
    left = tuple(d for k, d in enumerate(question.devices) if k != at)
    return dataclasses.replace(question, devices=left)


def _cordoned(rng: random.Random, question: Question) -> Question:
    return _a_device(rng, question, cordoned=True)


def _taken(rng: random.Random, question: Question) -> Question:
    """Others took memory of a device."""
    device = rng.choice(question.devices)
    part = rng.choice((0.3, 0.6, 0.8, 1.0))
    less = device.free_bytes - round((1 - part) * max(0, usable(device)))
    devices = tuple(
        dataclasses.replace(d, free_bytes=Bytes(less)) if d.id == device.id else d
        for d in question.devices
    )
    return dataclasses.replace(question, devices=devices)


def _forbidden(rng: random.Random, question: Question) -> Question:
    """A device does not allow one of its modes any more."""
    device = rng.choice(question.devices)
    if device.kind is DeviceKind.CPU or len(device.modes) < 2:
        return question
    devices = tuple(
        dataclasses.replace(d, modes=d.modes[1:]) if d.id == device.id else d
        for d in question.devices
    )
    return dataclasses.replace(question, devices=devices)


def _a_model(rng: random.Random, question: Question, **new: object) -> Question:
    at = rng.randrange(len(question.models))
    models = [*question.models]
    models[at] = dataclasses.replace(models[at], **new)  # type: ignore[arg-type]
    return dataclasses.replace(question, models=tuple(models))


def _demands(rng: random.Random, question: Question) -> Question:
    models = []
    for m in question.models:
        rate, factor = m.demand.req_per_s, rng.choice((0.3, 1.0, 1.5, 3.0))
        rate = None if rate is None else min(1e6, rate * factor)
        demand = dataclasses.replace(m.demand, req_per_s=rate)
        models.append(dataclasses.replace(m, demand=demand))
    return dataclasses.replace(question, models=tuple(models))


def _numbers(rng: random.Random, question: Question) -> Question:
    least = rng.choice((0, 1, 2, 3))
    return _a_model(
        rng, question, min_replicas=least, max_replicas=rng.choice((None, max(1, least)))
    )


def _candidates(rng: random.Random, question: Question) -> Question:
    """A model is not profiled any more in one of its sizes, or has another release."""
    m = rng.choice(question.models)
    kept: tuple[Candidate, ...] = m.candidates[1:]
    if rng.random() < 0.5 or not kept:
        kept = tuple(dataclasses.replace(c, release="r2") for c in m.candidates)
    models = tuple(
        dataclasses.replace(x, candidates=kept) if x.model == m.model else x
        for x in question.models
    )
    return dataclasses.replace(question, models=models)


def _removed(rng: random.Random, question: Question) -> Question:
    if len(question.models) < 2:
        return question
    gone = rng.choice(question.models).model
    left = tuple(m for m in question.models if m.model != gone)
    return dataclasses.replace(question, models=left)


CHANGES: Final = (
    _gone, _cordoned, _taken, _forbidden, _demands, _demands, _numbers, _candidates, _removed
)  # fmt: skip
