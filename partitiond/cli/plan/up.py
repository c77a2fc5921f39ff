"""Implements `partitiond up`: makes the fleet of a file serve; a second run changes nothing."""

import contextlib
import dataclasses
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from partitiond.cli.exits import Exit
from partitiond.cli.options import JsonOption, NoWaitOption, client_of, option, settings_of, spread
from partitiond.cli.output import err, jsonable, print_json, say
from partitiond.cli.plan.commands import AllowOutageOption, exit_of, plan_and_apply, show_preview
from partitiond.cli.waiting import JobFailedError, all_serve, wait_for_job, wait_for_plan
from partitiond.controller.profiles.profiling import options_for
from partitiond.controller.profiles.targets import first_looks, profile_targets, unmeasured
from partitiond.core.errors import (
    InputError,
    ModelSourceError,
    NotFoundError,
    PartitiondError,
    SpecError,
)
from partitiond.core.model.spec import ModelSpec
from partitiond.core.profile.jobs import FIRST_LOOK_SECONDS, LATER, Job, JobState
from partitiond.core.replica.obstacles import ObstacleKind
from partitiond.fleet.file import load_fleet

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient
    from partitiond.settings.schema import Settings

ACTIVE: Final = frozenset({JobState.QUEUED, JobState.RUNNING})
UNCHANGED: Final = "unchanged"
REFUSED: Final = "refused"
REFUSED_BY: Final = (InputError, ModelSourceError)


@spread
def up(  # noqa: PLR0917 -- typer passes them by name
    ctx: typer.Context,
    file: Annotated[Path, typer.Option("--file", "-f", metavar="FLEET", help="Fleet file (TOML).")],
    no_profile: bool = option("Plan with what is known; measure nothing."),
    dry_run: bool = option("Show what it would register, change and start; change nothing."),
    allow_outage: AllowOutageOption = False,
    no_wait: NoWaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make the fleet of a file run; change nothing the second time.

    Registers, profiles what is missing, plans and applies. Idempotent: models that are registered
    as the file says, profiles that are measured and replicas that run as planned stay as they
    are. Models that are not in the file stay, too. A refused model keeps no other from being
    planned; the status is then 2.
    """
    fleet = load_fleet(file)
    if not fleet.models:
        raise SpecError(f"{file} names no model.", hint="Add a [[models]] table.")
    if fleet.settings:
        say("[settings] of the file is for `plan --from`: the daemon plans by its own settings.")
    settings = settings_of(ctx)
    with client_of(ctx) as client:
        changes: dict[str, str] = {}
        new: list[ModelSpec] = []
        gets = {name: spec.name for spec in fleet.models for name in (spec.name, *spec.aliases)}
        moving = {
            alias: old.name
            for old in [view.record.spec for view in client.models()]
            if gets.get(old.name) == old.name  # others give up none
            for alias in old.aliases
            if gets.get(alias, old.name) != old.name
        }
        for spec in fleet.models:
            # A model keeps an alias until the one that gets it would be accepted.
            kept = [a for a, old in moving.items() if old == spec.name and not dry_run]
            asked = dataclasses.replace(spec, aliases=(*spec.aliases, *kept))
            try:
                if not (dry_run or moving.keys().isdisjoint((spec.name, *spec.aliases))):
                    register_or_update(client, asked, moving, dry_run=True)
                with taken_aliases(client, spec, moving, dry_run=dry_run) as owners:
                    stored, change = register_or_update(client, asked, moving, dry_run=dry_run)
            except REFUSED_BY as error:
                changes[spec.name] = REFUSED
                say(f"{spec.name} is refused: {error}")
                continue
            if change == UNCHANGED:
                change = changes.get(spec.name, change)
            changes |= {owner: "changed" for owner in owners if changes.get(owner) != REFUSED}
            changes[spec.name] = change
            if change != UNCHANGED:
                new.append(stored)
            say(f"{spec.name}: {f'would be {change}' if dry_run else change}")
        if dry_run:
            preview = client.plan_with(new, allow_outage=allow_outage)
        else:
            if not no_profile:
                taken = [name for name, change in changes.items() if change != REFUSED]
                profile_missing(client, taken, settings)
            preview = plan_and_apply(client, allow_outage=allow_outage)
        if not as_json:
            show_preview(preview, full=dry_run, as_json=False)
        if preview.infeasible is None and not (dry_run or no_wait):
            now = wait_for_plan(client, preview.plan.id, err())
            say(f"{all_serve(now)} on {settings.proxy_url}/v1")
    if as_json:
        print_json({"models": changes, **jsonable(preview)})
    refused = [name for name, change in changes.items() if change == REFUSED]
    if refused:
        say(f"Refused, as said above: {', '.join(refused)}.")
    raise typer.Exit(Exit.BAD_INPUT if refused else exit_of(preview.plan, preview.infeasible))


@contextlib.contextmanager
def taken_aliases(
    client: "ControlClient", spec: ModelSpec, moving: dict[str, str], *, dry_run: bool
) -> Iterator[Collection[str]]:
    """Take a model's names from their owners while it is made; yield the owners. If it is not made,
    they get the names back. A dry run takes none.

    Args:
        moving: owners by alias; those that were taken leave it.
    """
    names = {spec.name, *spec.aliases} & moving.keys()
    owners = [] if dry_run else sorted({moving[name] for name in names})
    before = [client.model(owner).record for owner in owners]
    try:
        for record in before:
            left = [alias for alias in record.spec.aliases if alias not in names]
            client.update(record.spec.name, {"aliases": left}, record.version)
        yield owners
    except BaseException:
        with contextlib.suppress(PartitiondError):  # the caller tells why the model was not made
            for record in before:
                client.update(record.spec.name, {"aliases": list(record.spec.aliases)})
        raise
    for name in sorted(names):
        say(f"{name} {'would move' if dry_run else 'moves'} from {moving.pop(name)} to {spec.name}")


def register_or_update(
    client: "ControlClient", spec: ModelSpec, freed: Collection[str] = (), *, dry_run: bool = False
) -> tuple[ModelSpec, str]:
    """Make the registered model equal `spec`, as the daemon completes it by the model's config.

    A dry run takes the names in `freed` as free, though the daemon still has them.

    Returns:
        What is stored, or would be, and "registered", "changed" or "unchanged".

    Raises:
        InputError, ModelSourceError: the daemon refuses the model.
    """
    moved = {*freed} & {*spec.aliases} if dry_run else set[str]()
    asked = dataclasses.replace(spec, aliases=tuple(a for a in spec.aliases if a not in moved))
    try:
        known = client.model(spec.name).record
    except NotFoundError:
        if dry_run and spec.name in freed:
            return spec, "registered"  # the plan completes it
        stored, change = client.register(asked, dry_run=dry_run).spec, "registered"
    else:
        if spec.source == dataclasses.replace(known.spec.source, revision=None):
            asked = dataclasses.replace(asked, source=known.spec.source)
        updated = client.update(spec.name, asked, dry_run=dry_run)
        same = updated.version == known.version and not moved
        stored, change = updated.spec, UNCHANGED if same else "changed"
    return dataclasses.replace(stored, aliases=spec.aliases), change


def profile_missing(client: "ControlClient", names: list[str], settings: "Settings") -> None:
    """Look at the models without a measured profile, with progress; what that leaves open of those
    that are started by themselves is measured later.

    All looks are queued before the first is awaited: the daemon makes no plan by itself while any
    is open, so no engine starts beside a measurement. A model that cannot be measured beside
    the serving replicas stays in the queue and is planned from its estimate. A model whose
    measurement fails, or whose engine is missing, does not keep others from being planned.
    """
    targets = first_looks(profile_targets(client.devices(), settings.profiling.cpu_partition_cores))
    seconds = min(FIRST_LOOK_SECONDS, settings.profiling.time_limit_seconds)
    for name in names:
        view = client.model(name)
        if view.obstacle is not None and view.obstacle.kind is ObstacleKind.ENGINE_ABSENT:
            say(str(view.obstacle))
            continue
        if open_jobs(client, name):  # registering has queued them
            continue
        missing = unmeasured(view.record.spec, targets, client.profiles(name))
        later = view.record.spec.auto and len(missing) < len(targets)
        for target in () if later else missing:
            client.profile(name, options_for(target, seconds))
    for name in names:
        waited = set[str]()
        while left := [job for job in open_jobs(client, name) if job.id not in waited]:
            job = min(left, key=lambda one: one.state is not JobState.RUNNING)
            waited.add(job.id)
            say(f"{name}: profiling ({job.id})")
            try:
                ended = wait_for_job(client, job.id, err(), leave_when_blocked=True)
            except JobFailedError as failed:
                say(str(failed))
                continue
            if ended.state is JobState.QUEUED:
                say(f"{name}: {ended.progress.message}; its estimate is planned for now")


def open_jobs(client: "ControlClient", model: str) -> list[Job]:
    """Return the model's open profile jobs that plans wait for, oldest first."""
    mine = [job for job in client.jobs() if job.subject == model and job.reason not in LATER]
    return [job for job in reversed(mine) if job.state in ACTIVE]
