"""Implements `partitiond models`: registers, shows, changes and removes models."""

import difflib
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Group

from partitiond.cli.ids import ModelArgument, OneModelArgument, with_id
from partitiond.cli.models import form
from partitiond.cli.models.drift import report_view
from partitiond.cli.models.releases import releases_table
from partitiond.cli.models.scaling import scaling_table
from partitiond.cli.models.table import record_table
from partitiond.cli.options import (
    AllOption,
    JsonOption,
    NoWaitOption,
    client_of,
    option,
    spread,
)
from partitiond.cli.output import emit, err, jsonable, print_json, say, tell
from partitiond.cli.tables import PAGE_ROWS, models_table
from partitiond.cli.waiting import wait_for_change
from partitiond.core.errors import InputError
from partitiond.core.hardware.kinds import Device
from partitiond.core.model.spec import ModelSpec, PlacementRules
from partitiond.planner.model.ties import names_of

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient


@spread
def add(
    ctx: typer.Context,
    model: form.ModelArgument,
    *,
    given: Any = form.MODEL,
    as_json: JsonOption = False,
) -> None:
    """Register a model, and start the chain with --auto.

    The chain: an estimate at once, then a profile, then a plan. The plan is applied by itself
    only if it moves or stops nothing that runs.
    """
    body = {"model": form.model_text(model)} | given
    with client_of(ctx) as client:
        record = client.register(body)
        view = client.model(record.spec.name)
        unknown = [] if as_json else _unknown(client, record.spec)
    obstacle = view.obstacle
    if as_json:
        print_json(record)
        return
    say(f"{record.spec.name} is registered.")
    for warning in filter(None, (view.warning, *unknown)):
        say(warning)
    if obstacle is not None:
        say(str(obstacle))
    elif record.spec.auto:
        say("It is estimated now, then profiled and planned: partitiond profile jobs")
    else:
        say(f"Next: partitiond profile {record.spec.name}, then partitiond plan")


def _unknown(client: "ControlClient", spec: ModelSpec) -> list[str]:
    rules = spec.rules
    if not (rules.only_on or rules.near or rules.avoid):
        return []
    models = {view.record.spec.name for view in client.models()}
    return list(unknown_names(rules, client.devices(), models))


def unknown_names(
    rules: PlacementRules, devices: Sequence[Device], models: Collection[str]
) -> Iterator[str]:
    """Name what rules mean and is not there now: it may come, or be mistyped. Pure."""
    places = {name for device in devices for name in names_of(device)}
    for option_name, names, there in (
        ("only-on", rules.only_on, places),
        ("near", rules.near, models),
        ("avoid", rules.avoid, models),
    ):
        for name in names:
            if name not in there:
                close = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
                meant = f" Did you mean {close[0]}?" if close else ""
                yield f"--{option_name} {name}: there is nothing of that name now.{meant}"


@spread
def show(
    ctx: typer.Context,
    name: OneModelArgument = None,
    *,
    drift: bool = option("What all replicas do beside what was predicted at their load."),
    lift: str | None = option(
        "With --drift: take this profile's correction off; its replicas are judged anew.",
        metavar="PROFILE",
    ),
    everything: AllOption = False,
    as_json: JsonOption = False,
) -> None:
    """List registered models, or show one in full.

    In full: as registered, as it is, how it scales, its releases. A release is what engines are
    made of: source, revision and engine options.
    """
    if (drift and name is not None) or (lift is not None and not drift):
        raise InputError(
            "--drift is of all models.", hint="Write --drift, or --drift --lift PROFILE."
        )
    with client_of(ctx) as client:
        if lift is not None:
            _lift(client, lift, as_json=as_json)
            return
        if drift:
            report = client.drift()
            emit(report, as_json=as_json, render=lambda: report_view(report))
            return
        if name is None:
            models = client.models()
            page = None if everything else PAGE_ROWS
            emit(models, as_json=as_json, render=lambda: models_table(models, page))
            return
        view = client.model(name)
        releases = client.releases(name)
        scales = view.record.spec.autoscale is not None
        scaling = client.scaling_of(name) if scales else None
    emit(
        {**jsonable(view), "releases": releases, "scaling": scaling},
        as_json=as_json,
        render=lambda: Group(
            record_table(view.record),
            models_table([view]),
            *([scaling_table(scaling)] if scaling is not None else []),
            releases_table(releases),
        ),
    )


def _lift(client: "ControlClient", given: str, *, as_json: bool) -> None:
    """Take a profile's correction off. Raises NotFoundError, InputError."""
    corrected = lambda: (each.profile_id for each in client.drift().corrections)  # noqa: E731
    lifted = with_id("profile", given, client.lift_correction, corrected)
    words = f"Plans take the figures of {lifted.profile_id} as they are again."
    tell(lifted, words, as_json=as_json)


@spread
def update(
    ctx: typer.Context,
    name: ModelArgument,
    *,
    revision: str | None = option(
        "Commit or version of its source: a new release.", metavar="REVISION"
    ),
    given: Any = form.CHANGES,
    no_wait: NoWaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Change what was registered; the rest stays.

    Waits for what the daemon makes of it.

    Another revision, kind of engine, engine option or isolation group is a new release: its engines
    take the place of those that run, and the model goes back by itself where they do not become
    ready.
    The wait ends where a measurement has to come first, or a plan waits for `partitiond apply`.
    --variant, --alias and --default name all of them anew.
    """
    from partitiond.client.bodies import encoded

    changes: dict[str, Any] = given
    if not changes and revision is None:
        raise typer.BadParameter("nothing to change: give at least one option.")
    with client_of(ctx) as client:
        if revision is not None:
            source = client.model(name).record.spec.source
            changes["source"] = {"kind": source.kind.value, "ref": source.ref}
            changes["source"]["revision"] = revision or None
        encoded(changes)  # refuses what is no number before a request is sent
        before = client.convergence()
        record = client.update(name, changes)
        if as_json:
            print_json(record)
        elif changes.keys() <= {"aliases", "request_defaults", "request_limits"}:
            say(f"{name} is changed (version {record.version}), from the next request on.")
            return
        else:
            say(f"{name} is changed (version {record.version}).")
            for warning in _unknown(client, record.spec) if "rules" in changes else ():
                say(warning)
        if not no_wait:
            wait_for_change(client, before, err())


def remove(ctx: typer.Context, name: ModelArgument, as_json: JsonOption = False) -> None:
    """Remove a model: its replicas drain and stop. Its measured profiles stay."""
    with client_of(ctx) as client:
        view = client.model(name)
        client.remove(name)
    stops = (
        "; its replicas drain and stop" if view.replicas_serving or view.replicas_planned else ""
    )
    tell({"removed": name}, f"{name} is removed{stops}.", as_json=as_json)
