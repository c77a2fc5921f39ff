"""Defines the arms, which serve a case's models on the same machine in different ways."""

import asyncio
import contextlib
import dataclasses
import functools
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from bench.daemons import Daemon, first_token, running, wait_for
from bench.fleet import swap_policy
from bench.fleet.cases import CORES, MEMORY_BYTES, Case, Model
from bench.fleet.engines import Account, Engine, garage, held_bytes
from bench.fleet.swap import SwapProxy
from bench.processes import free_ports, stop
from bench.proxy.tools import environment_program
from partitiond import serde
from partitiond.client.client import ControlClient
from partitiond.core.hardware.kinds import Device
from partitiond.core.profile.record import Profile

NOWHERE: Final = "http://127.0.0.1:1"
"""Address of models that an arm does not serve: every request fails."""


@dataclasses.dataclass(frozen=True, slots=True)
class Serving:
    """An arm at work.

    Attributes:
        targets: address by model.
        account: its engines' memory and starts.
        about: a short text on how the arm uses the machine.
    """

    targets: Mapping[str, str]
    account: Account
    about: str


Arm = Callable[[Case, float], "contextlib.AbstractAsyncContextManager[Serving]"]


# --- partitiond ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def partitiond(case: Case, start_seconds: float) -> AsyncIterator[Serving]:
    """The real daemon on a CPU of six cores; models scale to zero if not all of them fit."""
    settings = {"gpu.enabled": False, "cpu.memory": f"{MEMORY_BYTES >> 30}GiB"}
    command = ("-m", "bench.fleet.roomy", str(CORES))
    with contextlib.ExitStack() as stack:
        daemon = await asyncio.to_thread(stack.enter_context, running(settings, command))
        client = stack.enter_context(daemon.client())
        about = await asyncio.to_thread(_register, case, daemon, client, start_seconds)
        targets = {model.name: daemon.settings.proxy_url for model in case.models}
        yield Serving(targets, Account(functools.partial(_look, client)), about)


def _look(client: ControlClient) -> tuple[int, int]:
    events = client.events(0, 1000)
    return (
        sum(replica.memory_bytes for replica in client.replicas() if replica.pid is not None),
        sum(event.kind == "engine-starting" for event in events),
    )


def _register(case: Case, daemon: Daemon, client: ControlClient, start_seconds: float) -> str:
    for model in case.models:
        file = daemon.folder / f"{model.name}.json"
        file.write_text(serde.to_json(model.profile))
        args = [f"--profile={file}", f"--load-seconds={start_seconds}"]
        body: dict[str, object] = {
            "model": model.base,
            "name": model.name,
            "weights": "dummy",
            "engine_kind": "simulated",
            "auto": False,
            "workload": {"prompt_tokens": 160, "output_tokens": 16},
            "demand": {"req_per_s": model.req_per_s},
            "slo": {"ttft_seconds": case.slo.ttft_seconds, "tpot_seconds": case.slo.tpot_seconds},
            "engine": {"max_model_len": 256, "extra_args": args},
        }
        if not case.warm:
            body["autoscale"] = {"scale_to_zero_seconds": 120}
        client.register(body)
        client.import_profile(_as_measured_here(model, client.devices()[0]))
    placed = client.apply().plan.placements
    wait_for(
        "the planned replicas",
        lambda: sum(r.state == "serving" for r in client.replicas()) >= len(placed),
        start_seconds * len(placed) + 120,
        0.5,
    )
    names = [placement.model for placement in placed]
    return ", ".join(f"{names.count(name)}x {name}" for name in dict.fromkeys(sorted(names)))


def _as_measured_here(model: Model, device: Device) -> Profile:
    """The measured profile with the hardware of this machine and the simulated engine."""
    made = dataclasses.replace(
        model.profile.provenance,
        engine="simulated",
        engine_version="",
        driver=device.driver,
        hardware=device.hardware,
        weights="dummy",
        notes=(),
    )
    return dataclasses.replace(
        model.profile,
        id=f"measured-{model.name}",
        model=model.name,
        hardware=device.hardware,
        provenance=made,
    )


# --- llama-swap's policy ------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def swap_one(case: Case, start_seconds: float) -> AsyncIterator[Serving]:
    """One model at a time, on all cores."""
    policy = swap_policy.SwapPolicy(swap_policy.one_at_a_time)
    async with _swapped(case, start_seconds, policy, CORES, 1) as found:
        yield found


@contextlib.asynccontextmanager
async def swap_many(case: Case, start_seconds: float) -> AsyncIterator[Serving]:
    """As many models as fit, each on an equal part of the cores."""
    room = int(MEMORY_BYTES // max(held_bytes(model) for model in case.models))
    limit = min(room, CORES, len(case.models))
    policy = swap_policy.SwapPolicy(swap_policy.as_many_as_fit(limit))
    async with _swapped(case, start_seconds, policy, CORES // limit, limit) as found:
        yield found


@contextlib.asynccontextmanager
async def _swapped(
    case: Case, start_seconds: float, policy: swap_policy.SwapPolicy, cores: int, limit: int
) -> AsyncIterator[Serving]:
    models = {model.name: model for model in case.models}
    with garage(start_seconds) as shop:
        proxy = SwapProxy(models, policy, shop, cores)
        async with proxy.listening() as url:
            if case.warm:
                first = sorted(case.models, key=lambda m: -m.req_per_s)[:limit]
                await asyncio.gather(*(proxy.load(model.name) for model in first))
            about = f"{limit} loaded at once, {cores} cores each"
            yield Serving(dict.fromkeys(models, url), Account(shop.look), about)


# --- equal shares, and by hand ------------------------------------------------------------------


@contextlib.asynccontextmanager
async def static(case: Case, start_seconds: float) -> AsyncIterator[Serving]:
    """Each model on an equal number of cores, one engine a core, behind a vllm-router."""
    share = max(1, CORES // len(case.models))
    models = case.models[: CORES // share]
    with contextlib.ExitStack() as stack:
        shop = stack.enter_context(garage(start_seconds))
        engines = {m.name: [shop.launch(m, 1) for _ in range(share)] for m in models}
        await asyncio.gather(*(shop.ready(e) for some in engines.values() for e in some))
        targets = {model.name: NOWHERE for model in case.models}
        for model, some in engines.items():
            router = await asyncio.to_thread(stack.enter_context, _router(some, shop.folder))
            targets[model] = router
        yield Serving(targets, Account(shop.look), f"{share}x each of {len(models)} models")


@contextlib.contextmanager
def _router(engines: list[Engine], folder: Path) -> Iterator[str]:
    port, prometheus = free_ports(2)
    words = [
        str(environment_program("vllm-router")), "--host", "127.0.0.1", "--port", str(port),
        "--worker-urls", *(f"http://127.0.0.1:{engine.port}" for engine in engines),
        "--policy", "round_robin", "--log-level", "error", "--prometheus-port", str(prometheus),
        "--request-timeout-secs", "3600", "--max-concurrent-requests", "32000",
    ]  # fmt: skip
    with (folder / f"router-{port}.log").open("wb") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        # The router refuses until it has checked its workers.
        answers = functools.partial(first_token, port, engines[0].model.name)
        wait_for("vllm-router to answer", answers, 120, 0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


@contextlib.asynccontextmanager
async def by_hand(case: Case, start_seconds: float) -> AsyncIterator[Serving]:
    """The model with the most requests on all cores; the other models are not served."""
    most: Model = max(case.models, key=lambda model: model.req_per_s)
    with garage(start_seconds) as shop:
        engine = shop.launch(most, CORES)
        await shop.ready(engine)
        targets = {model.name: NOWHERE for model in case.models}
        targets[most.name] = f"http://127.0.0.1:{engine.port}"
        yield Serving(targets, Account(shop.look), f"{most.name} on {CORES} cores")


ARMS: Final[Mapping[str, Arm]] = {
    "partitiond": partitiond,
    "swap-one": swap_one,
    "swap-many": swap_many,
    "static": static,
    "by-hand": by_hand,
}
