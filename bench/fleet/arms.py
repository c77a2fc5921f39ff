"""Defines the arms, which serve a case's models on the same machine in different ways."""

import asyncio
import contextlib
import dataclasses
import functools
import http.client
import json
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from bench.daemons import Daemon, running, wait_for
from bench.fleet import swap_policy
from bench.fleet.cases import CORES, MEMORY_BYTES, Case, Model
from bench.fleet.engines import Engine, Garage, garage, held_bytes
from bench.fleet.swap import SwapProxy
from bench.processes import free_ports, stop
from bench.proxy.tools import environment_program
from partitiond import serde
from partitiond.client.client import ControlClient
from partitiond.core.hardware.kinds import Device
from partitiond.core.profile.record import Profile

SAMPLE_SECONDS: Final = 1.0
NOWHERE: Final = "http://127.0.0.1:1"
"""Address of models that an arm does not serve: every request fails."""


@dataclasses.dataclass(slots=True)
class Serving:
    """An arm at work.

    Attributes:
        targets: address by model.
        count_from_now: starts the counts of memory and engine starts.
        memory: (mean, most) bytes held by engines since then.
        starts: engines started since then.
        about: a short text on how the arm uses the machine.
    """

    targets: Mapping[str, str]
    count_from_now: Callable[[], None]
    memory: Callable[[], tuple[float, float]]
    starts: Callable[[], int]
    about: str = ""


Arm = Callable[[Case, float], "contextlib.AbstractAsyncContextManager[Serving]"]


def serving(shop: Garage, targets: Mapping[str, str], about: str) -> Serving:
    """An arm whose engines run in a garage."""
    return Serving(
        targets,
        shop.count_from_now,
        lambda: (shop.mean_bytes(), float(shop.peak_bytes())),
        lambda: shop.starts,
        about,
    )


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
        account = _Account(client)
        task = asyncio.create_task(account.run())
        try:
            url = daemon.settings.proxy_url
            yield Serving(
                {model.name: url for model in case.models},
                account.count_from_now,
                account.memory,
                account.starts,
                about,
            )
        finally:
            task.cancel()
            await asyncio.wait([task])


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


class _Account:
    """Memory held by the daemon's replicas, sampled every second."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client
        self.count_from_now()

    def count_from_now(self) -> None:
        """Restart all counts."""
        self._sum, self._looks, self._peak = 0.0, 0, 0.0
        self._starts_before: int | None = None
        self._starts_now = 0

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            replicas = await asyncio.to_thread(self._client.replicas)
            held = float(sum(r.memory_bytes for r in replicas if r.pid is not None))
            self._sum, self._looks = self._sum + held, self._looks + 1
            self._peak = max(self._peak, held)
            events = await asyncio.to_thread(self._client.events, 0, 1000)
            self._starts_now = sum(event.kind == "engine-starting" for event in events)
            if self._starts_before is None:
                self._starts_before = self._starts_now
            await asyncio.sleep(SAMPLE_SECONDS)

    def memory(self) -> tuple[float, float]:
        """(mean, most) bytes held since counting began."""
        return self._sum / max(1, self._looks), self._peak

    def starts(self) -> int:
        """Engines started since counting began."""
        return self._starts_now - (self._starts_before or 0)


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
    with _garage(start_seconds) as shop:
        proxy = SwapProxy(models, policy, shop, cores)
        async with proxy.listening() as url:
            if case.warm:
                first = sorted(case.models, key=lambda m: -m.req_per_s)[:limit]
                await asyncio.gather(*(proxy.load(model.name) for model in first))
            about = f"{limit} loaded at once, {cores} cores each"
            yield serving(shop, dict.fromkeys(models, url), about)


@contextlib.contextmanager
def _garage(start_seconds: float) -> Iterator[Garage]:
    with (
        tempfile.TemporaryDirectory(prefix="pd-fleet-") as name,
        garage(Path(name), start_seconds) as shop,
    ):
        yield shop


# --- equal shares, and by hand ------------------------------------------------------------------


@contextlib.asynccontextmanager
async def static(case: Case, start_seconds: float) -> AsyncIterator[Serving]:
    """Each model on an equal number of cores, one engine a core, behind a vllm-router."""
    share = max(1, CORES // len(case.models))
    models = case.models[: CORES // share]
    with contextlib.ExitStack() as stack:
        shop = stack.enter_context(_garage(start_seconds))
        engines = {m.name: [shop.launch(m, 1) for _ in range(share)] for m in models}
        await asyncio.gather(*(shop.ready(e) for some in engines.values() for e in some))
        targets = {model.name: NOWHERE for model in case.models}
        for model, some in engines.items():
            router = await asyncio.to_thread(stack.enter_context, _router(some, shop.folder))
            targets[model] = router
        yield serving(shop, targets, f"{share}x each of {len(models)} models")


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
        answers = functools.partial(_completes, port, engines[0].model.name)
        wait_for("vllm-router to answer", answers, 120, 0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


def _completes(port: int, model: str) -> bool:
    """Whether a completion succeeds: the router refuses until it has checked its workers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = json.dumps({"model": model, "prompt": "a", "max_tokens": 1})
    try:
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@contextlib.asynccontextmanager
async def by_hand(case: Case, start_seconds: float) -> AsyncIterator[Serving]:
    """The model with the most requests on all cores; the other models are not served."""
    most: Model = max(case.models, key=lambda model: model.req_per_s)
    with _garage(start_seconds) as shop:
        engine = shop.launch(most, CORES)
        await shop.ready(engine)
        targets = {model.name: NOWHERE for model in case.models}
        targets[most.name] = f"http://127.0.0.1:{engine.port}"
        yield serving(shop, targets, f"{most.name} on {CORES} cores")


ARMS: Final[Mapping[str, Arm]] = {
    "partitiond": partitiond,
    "swap-one": swap_one,
    "swap-many": swap_many,
    "static": static,
    "by-hand": by_hand,
}
