"""Runs `partitiond tools advise` in this process: observes a deployment, then plans it."""

import asyncio
import contextlib
import dataclasses
import datetime
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import typer

from partitiond.advise.advice import Advice, Choices
from partitiond.advise.advice import advise as advise_on
from partitiond.advise.identify import Known, ServedName, UnidentifiedModel, UserChoices, identify
from partitiond.advise.knowledge import profiles_for
from partitiond.advise.observe import observe
from partitiond.advise.readings import EngineKey, Reading
from partitiond.advise.scraper import ScrapedEngines, watch
from partitiond.advise.today import (
    Address,
    Deployment,
    parse_address,
    parse_devices,
    resolve_devices,
)
from partitiond.advise.traffic import ObservedTraffic, traffic_of
from partitiond.cli.options import client_of, settings_of
from partitiond.cli.output import err, say
from partitiond.cli.plan.offline import resolved_architecture
from partitiond.cli.progress import reporting
from partitiond.core.errors import PartitiondError, SpecError, UpstreamError
from partitiond.core.hardware.kinds import Device
from partitiond.core.model.spec import ModelSpec
from partitiond.core.profile.record import Profile
from partitiond.core.units import format_duration
from partitiond.fleet.file import load_fleet
from partitiond.fleet.profile_files import profile_paths, read_profile
from partitiond.settings.schema import Settings


@dataclasses.dataclass(frozen=True, slots=True)
class AdviseRequest:
    """The options, parsed and checked.

    Attributes:
        addresses: where engines answer.
        seconds: how long to watch the addresses.
        every_seconds: seconds between two looks.
    """

    addresses: tuple[str, ...]
    seconds: float
    every_seconds: float
    gpus: tuple[str, ...]
    fleet: Path | None
    profiles: tuple[Path, ...]
    time_limit_seconds: float


Seen = tuple[
    Mapping[EngineKey, Sequence[Reading]], Mapping[str, Mapping[str, ServedName]], Deployment, float
]
"""Readings by engine, served names by address, the devices, and the seconds watched."""


def run_advise(ctx: typer.Context, asked: AdviseRequest) -> Advice:
    """Look at a deployment, then plan what was seen. This starts and changes nothing.

    Raises:
        SpecError: an option names something unknown.
        UpstreamError: an engine does not answer.
    """
    settings = settings_of(ctx)
    fleet = load_fleet(asked.fleet) if asked.fleet is not None else None
    wishes = (
        UserChoices({m.name: m for m in fleet.models}, fleet.architectures)
        if fleet
        else UserChoices()
    )
    measured = _measured(ctx, asked)
    given = (*(fleet.devices if fleet else ()), *parse_devices(asked.gpus))
    return plan_seen(asked, wishes, measured, _watched(asked, given), settings)


def plan_seen(
    asked: AdviseRequest,
    wishes: UserChoices,
    measured: Sequence[Profile],
    seen: Seen,
    settings: Settings,
) -> Advice:
    """Advice on the observed deployment. Raises SpecError, UpstreamError."""
    readings, served, today, seconds = seen
    traffic = traffic_of(observe(readings))
    if not traffic:
        raise UpstreamError(
            "no engine was seen twice.",
            after_first_byte=False,
            hint="Watch for longer, or check that the engines serve a model.",
        )
    known, strangers = _identified(traffic, served, wishes, settings)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    say(f"Planning {len(known)} model(s) on {len(today.devices)} device(s), three times ...")
    knowledge = {m.spec.name: profiles_for(m, today.devices, measured, now) for m in known}
    notes = [f"{name}: {note}" for name, one in knowledge.items() for note in one.notes]
    today = Deployment(today.devices, today.on, (*today.notes, *notes))
    return advise_on(
        today,
        known,
        strangers,
        {name: one.profiles for name, one in knowledge.items()},
        seconds=seconds,
        choices=Choices(now, asked.time_limit_seconds),
    )


# --- looking ----------------------------------------------------------------------------------


def _watched(asked: AdviseRequest, devices: Sequence[Device]) -> Seen:
    addresses = tuple(parse_address(text) for text in asked.addresses)
    urls = _different(addresses)
    if not devices:
        raise SpecError(
            "no device is named.",
            hint='Say what the engines run on: --gpu "4 a100-80gb", or --fleet FILE.',
        )
    on = resolve_devices(addresses, devices)
    seen = _watch(urls, asked)
    today = Deployment(tuple(devices), on, tuple(_missed(seen)))
    return seen.readings, seen.served, today, seen.seconds


def _different(addresses: Sequence[Address]) -> tuple[str, ...]:
    urls = [address.url for address in addresses]
    twice = next((url for url in urls if urls.count(url) > 1), None)
    if twice is not None:
        raise SpecError(f"the address {twice} is given twice.", hint="Give each once.")
    return tuple(urls)


def _watch(urls: Sequence[str], asked: AdviseRequest) -> ScrapedEngines:
    """Watch the engines; Ctrl-C ends the watch early and keeps what was seen."""
    watched = ScrapedEngines()
    length = format_duration(asked.seconds)
    say(f"Watching {len(urls)} address(es) for {length}; Ctrl-C advises from what was seen.")
    with reporting(err()) as progress:

        def show(now: ScrapedEngines) -> None:
            looks = sum(now.answered.values())
            left = max(0.0, asked.seconds - now.seconds)
            progress.update(f"{looks} looks", min(1.0, now.seconds / asked.seconds), left)

        try:
            asyncio.run(
                watch(
                    urls,
                    seconds=asked.seconds,
                    every_seconds=asked.every_seconds,
                    into=watched,
                    on_look=show,
                )
            )
        except KeyboardInterrupt:
            if not any(len(readings) > 1 for readings in watched.readings.values()):
                raise
    return watched


def _missed(watched: ScrapedEngines) -> Iterable[str]:
    for address, (count, reason) in sorted(watched.missed.items()):
        answered = watched.answered.get(address, 0)
        yield f"{address} answered {answered} of {answered + count} looks; last: {reason}"


# --- what is known ----------------------------------------------------------------------------


def _measured(ctx: typer.Context, asked: AdviseRequest) -> list[Profile]:
    """Profiles from the named files, and those that the daemon keeps."""
    found = [read_profile(path) for path in profile_paths(asked.profiles)]
    # Advice needs no daemon: without one, estimates stand in for what no file holds.
    with contextlib.suppress(PartitiondError), client_of(ctx) as client:
        found += [view.profile for view in client.profile_views() if not view.stale]
    return list({profile.id: profile for profile in found}.values())


def _identified(
    traffic: Sequence[ObservedTraffic],
    served: Mapping[str, Mapping[str, ServedName]],
    wishes: UserChoices,
    settings: Settings,
) -> tuple[list[Known], list[UnidentifiedModel]]:
    known: list[Known] = []
    strangers: list[UnidentifiedModel] = []
    for one in traffic:
        told = (served.get(e.key.address, {}).get(one.model) for e in one.engines)
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
    return known, strangers
