"""Engines on a simulated GPU serve what was planned for them, on virtual time."""

import asyncio
import dataclasses
import itertools
import os
import random
import time
from pathlib import Path

import pytest

from partitiond.controller.runtime.launches import launch_for
from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.partition import MemoryShare, MpsShare
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import ModelSpec, Slo
from partitiond.core.model.workload import Workload
from partitiond.core.performance.engine_speed import SPEED_VARIABLE
from partitiond.core.performance.interference import level_of, sigma
from partitiond.core.plan.record import Candidate, Placement, Plan
from partitiond.fleet.estimates import estimate, sizes
from partitiond.fleet.file import load_fleet
from partitiond.fleet.offline import fleet_request
from partitiond.models.catalog import CATALOG
from partitiond.planner.api import solve
from partitiond.planner.model.candidates import candidates_for
from partitiond.simulated.engine.__main__ import parse, planned_speed, slowdown, step_model
from partitiond.simulated.engine.batch import Batch, Sequence
from partitiond.simulated.engine.loop import EngineLoop
from tests.planner.build import gpu, spec

GPU = gpu("gpu-0")
LONG = Workload(1500, 16)
SECONDS = 40.0


def asked(name: str, workload: Workload) -> ModelSpec:
    return spec(name, workload=workload, slo=Slo(2.0, 0.2), engine_kind="simulated")


def best(model: ModelSpec, mode: SharingMode, percent: int) -> Candidate:
    """The candidate of such a share that is planned for the most requests."""
    architecture = CATALOG[model.name].architecture
    size = next(s for s in sizes(GPU) if (s.mode, s.sm_percent) == (mode, percent))
    profile = estimate(model, architecture, GPU, size, "2026-01-01T00:00:00+00:00")
    made = candidates_for(model, [profile], (GPU.hardware,)).candidates
    return max((c for c in made if c.size.mode is mode), key=lambda c: c.capacity_req_per_s)


def engine(model: ModelSpec, candidate: Candidate, host: Path, *flags: str) -> EngineLoop:
    """The engine as it would be started in the candidate's share."""
    memory = candidate.memory_bytes
    share = (
        MpsShare(GPU.id, memory, candidate.size.sm_percent)
        if candidate.size.mode is SharingMode.MPS
        else MemoryShare(GPU.id, memory)
    )
    placement = Placement(f"{model.name}-1", model.name, GPU.id, share, candidate)
    return placed(model, placement, GPU, host, *flags)


def placed(
    model: ModelSpec, placement: Placement, gpu: Device, host: Path, *flags: str
) -> EngineLoop:
    """The engine of a placement."""
    candidate, architecture = placement.candidate, CATALOG[model.name].architecture
    resolved = ResolvedModel(model, host, None, architecture, dummy_weights=True)
    launch = launch_for(placement, resolved, gpu, name=placement.replica_id)
    arguments = parse(["--uds", "x", "--model", model.name, *flags])
    speed = planned_speed(arguments, dict(launch.extra_env)[SPEED_VARIABLE])
    tokens = candidate.kv_cache_bytes // architecture.kv_bytes_per_token
    batch = Batch(candidate.batch, launch.max_num_batched_tokens, tokens)
    steps, slowed = step_model(arguments, speed), slowdown(arguments, speed, str(host))
    return EngineLoop(batch, steps, slowed)


async def goodput(
    loop: EngineLoop, model: ModelSpec, rate: float, *more: EngineLoop, seconds: float = SECONDS
) -> float:
    """Requests/s within the SLO, of random arrivals at this rate, which replicas get in turn."""
    drawn, slo, good, sent = random.Random(7), model.slo, 0, 0
    replicas = itertools.cycle((loop, *more))
    assert slo is not None

    async def request() -> None:
        nonlocal good
        began = first = time.monotonic()
        async for position in next(replicas).generate(
            Sequence(model.workload.prompt_tokens, model.workload.output_tokens)
        ):
            first = time.monotonic() if position == 0 else first
        tpot = (time.monotonic() - first) / (model.workload.output_tokens - 1)
        good += first - began <= slo.ttft_seconds and tpot <= slo.tpot_seconds

    running = [asyncio.create_task(one.run()) for one in (loop, *more)]
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        while time.monotonic() - began < seconds:
            group.create_task(request())
            sent += 1
            await asyncio.sleep(drawn.uniform(0, 2) / rate)
    for one in running:
        one.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return rate * good / sent


TOUR = Path(__file__).parents[3] / "examples/several-hosts/fleet.toml"
ITS_HOSTS = """
[[devices]]
hardware = "a100-80gb"
count = 6
per_host = 2
cores = 32
"""


@pytest.mark.full
async def test_the_tour_of_hosts_serves_what_is_planned(tmp_path: Path) -> None:
    """The rates and the SLO of its load, by all replicas of each model and with all neighbours."""
    file = tmp_path / "fleet.toml"
    file.write_text(TOUR.read_text() + ITS_HOSTS)
    fleet = load_fleet(file)
    plan = solve(dataclasses.replace(fleet_request(fleet), deterministic=True))
    assert isinstance(plan, Plan)
    models = [dataclasses.replace(one, slo=Slo(0.75, 0.04)) for one in fleet.models]
    rates = [model.demand.req_per_s or 0.0 for model in models]
    on = {device.id: device for device in fleet.devices}
    loads = []
    for model, rate in zip(models, rates, strict=True):
        own = [p for p in plan.placements if p.model == model.name]
        first, *more = [placed(model, p, on[p.device_id], tmp_path) for p in own]
        assert more, "it outlives a host"
        loads.append(goodput(first, model, rate, *more, seconds=4.0))
    served = await asyncio.gather(*loads)
    assert served == pytest.approx(rates, rel=0.1)


async def test_goodput_is_that_of_the_plan_and_falls_where_the_plan_is_wrong(
    tmp_path: Path,
) -> None:
    model = asked("opt-1.3b", LONG)
    candidate = best(model, SharingMode.MPS, 30)
    planned = candidate.capacity_req_per_s
    served = await goodput(engine(model, candidate, tmp_path), model, planned)
    assert served == pytest.approx(planned, rel=0.1)
    slow = engine(model, candidate, tmp_path, "--step-factor", "2")
    assert await goodput(slow, model, planned) < 0.75 * planned


@pytest.mark.parametrize(("mode", "percent"), [(SharingMode.MPS, 50), (SharingMode.MEMORY, 100)])
async def test_engines_of_a_gpu_slow_each_other_down_as_planned(
    mode: SharingMode, percent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [asked("opt-1.3b", LONG), asked("qwen2.5-1.5b", Workload(1000, 8))]
    candidates = [best(model, mode, percent) for model in models]
    slower = sigma(mode, [candidate.busy for candidate in candidates])
    level = level_of(mode, slower)
    assert level is not None
    assert level > 1
    rates = [candidate.capacity_req_per_s / level for candidate in candidates]
    loops = [engine(m, c, tmp_path) for m, c in zip(models, candidates, strict=True)]
    served = await asyncio.gather(*map(goodput, loops, models, rates))
    assert served == pytest.approx(rates, rel=0.1)
    alone, steps = engine(models[0], candidates[0], tmp_path), 0.5
    assert alone._slowed(steps) == steps
    assert loops[1]._slowed(steps) == pytest.approx(slower * steps)
    told = engine(models[0], candidates[0], tmp_path, "--token-seconds=0")
    assert told._slowed(told._steps.step_seconds(9, 9) + steps) == steps
    await asyncio.sleep(2 * slower * steps)  # their steps are over
    assert loops[0]._slowed(steps) == steps
    with monkeypatch.context() as other:
        other.setattr(os, "getpid", lambda: 2**30)  # no process
        engine(models[1], candidates[1], tmp_path)._slowed(1e9)
    assert loops[1]._slowed(steps) > slower * steps, "two work beside it"
    await asyncio.sleep(3 * slower * steps)
    assert engine(models[0], candidates[0], tmp_path)._slowed(steps) == steps
    assert loops[1]._slowed(steps) == pytest.approx(slower * steps)
