"""Defines the arms, which serve a case's models on the same machine in different ways."""

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

from bench.daemons import Daemon, running, serving, wait_for
from bench.fleet.cases import MEMORY_BYTES, Case, Model
from bench.fleet.engines import Account, garage, held_bytes
from bench.fleet.swap import SwapProxy
from bench.fleet.swap_policy import SwapPolicy
from partitiond import serde
from partitiond.client.client import ControlClient
from partitiond.core.hardware.kinds import Device
from partitiond.core.profile.record import Profile


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
    """The real daemon on a CPU; models scale to zero if not all of them fit."""
    settings = {"gpu.enabled": False, "cpu.memory": f"{MEMORY_BYTES >> 30}GiB"}
    command = ("-m", "bench.fleet.roomy", str(case.cores))
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
        lambda: serving(client) >= len(placed),
        start_seconds * len(placed) + 120,
        0.5,
    )
    names = [placement.model for placement in placed]
    return ", ".join(f"{names.count(name)}x {name}" for name in dict.fromkeys(sorted(names)))


def _as_measured_here(model: Model, device: Device) -> Profile:
    """The measured profile with the hardware of this machine and the simulated engine.

    Its type is the one that the machine computes: profiles in another one do not count here, and
    models would be planned from estimates, of which one engine starts at a time.
    """
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
        dtype=device.native_dtype or model.profile.dtype,
        provenance=made,
    )


# --- llama-swap's policy ------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def swap(case: Case, start_seconds: float) -> AsyncIterator[Serving]:
    """As many models as fit, each on an equal part of the cores."""
    room = int(MEMORY_BYTES // max(held_bytes(model) for model in case.models))
    limit = min(room, case.cores, len(case.models))
    cores, models = case.cores // limit, {model.name: model for model in case.models}
    with garage(start_seconds) as shop:
        proxy = SwapProxy(models, SwapPolicy(limit), shop, cores)
        async with proxy.listening() as url:
            if case.warm:
                first = sorted(case.models, key=lambda m: -m.req_per_s)[:limit]
                await asyncio.gather(*(proxy.load(model.name) for model in first))
            about = f"{limit} loaded at once, {cores} cores each"
            yield Serving(dict.fromkeys(models, url), Account(shop.look), about)


ARMS: Final[Mapping[str, Arm]] = {"partitiond": partitiond, "swap": swap}
