"""Runs `partitiond tools advise` in this process: looks at a deployment twice, then plans it."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from partitiond.advise.advice import Advice, Deployment, advise
from partitiond.advise.identify import Known, ServedName, UnidentifiedModel, UserChoices, identify
from partitiond.advise.scraper import Look, look
from partitiond.advise.today import parse_address, parse_devices, resolve_devices
from partitiond.advise.traffic import ObservedTraffic, traffic_of
from partitiond.cli.output import err, say
from partitiond.cli.plan.offline import resolved_architecture
from partitiond.cli.progress import reporting
from partitiond.core.errors import SpecError, UpstreamError
from partitiond.core.hardware.kinds import Device
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import Infeasible, Plan
from partitiond.core.units import format_duration
from partitiond.fleet.file import Fleet, load_fleet
from partitiond.fleet.offline import fleet_request
from partitiond.planner.api import solve
from partitiond.settings.schema import Settings

IN_ORDER: Final = (
    "Addresses without a GPU were taken to be on the GPUs in order, so only the number of "
    "freed ones counts; name them with --address URL=GPU."
)


@dataclasses.dataclass(frozen=True, slots=True)
class AdviseRequest:
    """The options.

    Attributes:
        addresses: where engines answer, and the devices that they are on.
        seconds: time between the two looks.
    """

    addresses: tuple[str, ...]
    seconds: float
    gpus: tuple[str, ...]
    fleet: Path | None
    time_limit_seconds: float


def run_advise(asked: AdviseRequest, settings: Settings) -> Advice:
    """Look at a deployment, then plan what was seen. This starts and changes nothing.

    Raises:
        SpecError: an option names something unknown.
        UpstreamError: an engine does not answer at the first look.
    """
    fleet = load_fleet(asked.fleet) if asked.fleet is not None else None
    wishes = (
        UserChoices({m.name: m for m in fleet.models}, fleet.architectures)
        if fleet
        else UserChoices()
    )
    devices = (*(fleet.devices if fleet else ()), *parse_devices(asked.gpus))
    addresses = tuple(parse_address(text) for text in asked.addresses)
    urls = [address.url for address in addresses]
    twice = next((url for url in urls if urls.count(url) > 1), None)
    if twice is not None:
        raise SpecError(f"the address {twice} is given twice.", hint="Give each once.")
    if not devices:
        raise SpecError(
            "no device is named.",
            hint='Say what the engines run on: --gpu "4 a100-80gb", or --fleet FILE.',
        )
    on = resolve_devices(addresses, devices)
    first, second = _looks(urls, asked.seconds)
    seconds = second.at_seconds - first.at_seconds
    traffic = traffic_of(first.readings, second.readings, seconds)
    known, strangers = _identified(traffic, first, wishes, settings)
    say(f"Planning {len(known)} model(s) on {len(devices)} device(s) ...")
    notes = (IN_ORDER,) if any(not address.devices for address in addresses) else ()
    today = Deployment(devices, on, second.missed, known, strangers, seconds, notes)
    return advise(today, lambda known, there: plan_on(known, there, asked.time_limit_seconds))


def plan_on(known: Sequence[Known], devices: Sequence[Device], seconds: float) -> Plan | Infeasible:
    """Plan the models on the devices, as `plan --from` does a file; `seconds` bounds the search."""
    fleet = Fleet(
        models=tuple(model.spec for model in known),
        devices=tuple(devices),
        settings={},
        architectures={model.spec.name: model.architecture for model in known},
        path=Path("advice"),
    )
    return solve(fleet_request(fleet, time_limit_seconds=seconds))


def _looks(urls: Sequence[str], seconds: float) -> tuple[Look, Look]:
    """Look twice. Ctrl-C ends the wait between the looks."""
    first = asyncio.run(look(urls))
    for url, reason in first.missed.items():
        raise UpstreamError(
            f"{url} {reason}.",
            after_first_byte=False,
            hint="Give the addresses of vLLM's OpenAI server (port 8000 by default), started "
            "without --disable-log-stats.",
        )
    with contextlib.suppress(KeyboardInterrupt), reporting(err()) as progress:
        say(
            f"Looked at {len(urls)} address(es); the second look comes after "
            f"{format_duration(seconds)}, or at Ctrl-C."
        )
        while (left := first.at_seconds + seconds - time.monotonic()) > 0:
            progress.update("before the second look", 1 - left / seconds, left)
            time.sleep(min(left, 1.0))
    return first, asyncio.run(look(urls))


def _identified(
    traffic: Sequence[ObservedTraffic], seen: Look, wishes: UserChoices, settings: Settings
) -> tuple[tuple[Known, ...], tuple[UnidentifiedModel, ...]]:
    known: list[Known] = []
    strangers: list[UnidentifiedModel] = []
    for one in traffic:
        told = (seen.served[engine.address].get(one.model) for engine in one.engines)
        what = identify(
            one,
            next((s for s in told if s is not None), ServedName()),
            wishes,
            lambda source: resolved_architecture(ModelSpec("unnamed", source), settings),
            [k.spec.name for k in known],
        )
        if isinstance(what, Known):
            known.append(what)
        else:
            strangers.append(what)
    return tuple(known), tuple(strangers)
