"""Implements `partitiond setup`: prepares a host to run partitiond as a service, and undoes it."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import typer

from partitiond.cli.columns import Column, table_of
from partitiond.cli.exits import Exit
from partitiond.cli.options import JsonOption, option, spread
from partitiond.cli.output import out, print_json, say
from partitiond.cli.setup import changes
from partitiond.cli.setup.cluster_units import TOKEN, checked_place, installed_place
from partitiond.cli.setup.engine_host import runs_engine_user
from partitiond.cli.setup.host import ClusterPlace, SetupHost, facts_of, require_rights
from partitiond.cli.setup.isolation_groups import installed_groups
from partitiond.cli.setup.plan import UNITS, all_steps, steps_for
from partitiond.cli.setup.steps import SetupStep, StepOutcome, StepProgress
from partitiond.cli.tables import state_text
from partitiond.core.errors import InputError
from partitiond.core.model.isolation_group import check_isolation_group


@spread
def setup(
    *,
    apply: bool = option("Do it; without this it only shows."),
    undo: bool = option("Remove what a setup installs (shows; --apply does it)."),
    purge: bool = option("With --undo: also the user, and all its data."),
    root: Path | None = option("Set up an image that lies in this folder.", metavar="DIR"),
    gpu: bool | None = option(
        "Prepare for NVIDIA GPUs; default: if there are any.", "--gpu/--no-gpu"
    ),
    mig: bool | None = option("Install the MIG helper; default: with GPUs.", "--mig/--no-mig"),
    engine: bool = option("Also install vLLM (several GB).", "--engine/--no-engine", default=True),
    engine_user: bool | None = option(
        "Run engines as a user of their own, in a sandbox; default: where the host can.",
        "--engine-user/--no-engine-user",
    ),
    isolation_group: list[str] | None = option(
        "Also run engines of this isolation group, as a user of the group; repeatable.",
        metavar="GROUP",
    ),
    cluster: bool | None = option(
        "Be the head of several hosts; default: as it was set up before.",
        "--cluster/--no-cluster",
    ),
    join: str | None = option("Be one of several hosts, and obey this head.", metavar="HEAD"),
    bundle: Path | None = option(
        "With --join: the bundle that the head made for this host.", "--from", metavar="BUNDLE"
    ),
    address: str | None = option(
        "With --cluster or --join: address at which the other hosts reach this one."
    ),
    bin_dir: Path | None = option("Folder of the `partitiond` the service runs."),
    as_json: JsonOption = False,
) -> None:
    """Set this host up for partitiond as a system service.

    Shows what it would do: the user, folders, units, device nodes, persistence daemon, the MIG
    helper and the engine. Nothing is changed without --apply. Doing it twice changes nothing;
    --undo --apply removes the same files, except those that were changed since. With --cluster the
    host is the head of several, and with --join one of the others.
    """
    if purge and not undo:
        raise InputError("--purge goes with --undo.", hint="Write --undo --purge.")
    if root is not None and not root.is_dir():
        raise InputError(f"there is no folder {root}.", hint="Name the root folder of an image.")
    host = SetupHost() if root is None else SetupHost(root.resolve(), live=False)
    if apply:
        require_rights(host)
    if undo:
        _undo(host, all_steps(host, bin_dir), apply=apply, purge=purge, as_json=as_json)
        return
    groups = {group for group in isolation_group or () if group}
    for group in groups:
        check_isolation_group(group)
    if groups and engine_user is False:
        raise InputError(
            "isolation groups are users of engines, which --no-engine-user leaves out.",
            hint="Give --isolation-group or --no-engine-user.",
        )
    kept = set(installed_groups(host, UNITS)) - groups
    place = _place(host, cluster=cluster, join=join, bundle=bundle, address=address)
    if place is not None and engine_user is False:
        raise InputError(
            "engines that run as the daemon's user can read the token of all hosts.",
            hint="Leave --no-engine-user out, or stay one host: --no-cluster.",
        )
    must = True if groups or place is not None else engine_user
    with_user, why_not = runs_engine_user(host, asked=must)
    facts = facts_of(
        host,
        gpu=gpu,
        mig=mig,
        engine=engine and root is None,
        engine_user=with_user,
        bin_dir=bin_dir,
        isolation_groups=groups | kept,
        cluster=place,
    )
    if why_not and not as_json:
        say(f"Engines will run as the daemon's user: {why_not}.")
    if kept and not as_json:
        say(f"Isolation groups that are installed stay: {', '.join(sorted(kept))}.")
    _set_up(host, steps_for(facts, host), apply=apply, as_json=as_json)


def _place(
    host: SetupHost,
    *,
    cluster: bool | None,
    join: str | None,
    bundle: Path | None,
    address: str | None,
) -> ClusterPlace | None:
    """Return the host's place among several, as asked or as it is; None for one host."""
    if cluster is not None and join is not None:
        raise InputError(
            "--join and --cluster do not go together: a host is the head, or obeys one.",
            hint="Give one of them.",
        )
    if (bundle is not None and join is None) or (address and not (cluster or join)):
        raise InputError(
            "--from goes with --join, and --address with --cluster or --join.",
            hint="Write --join HEAD --from BUNDLE.",
        )
    former = installed_place(host)
    if cluster is None and join is None:
        return former
    if cluster is False:
        return None
    if former is not None and bool(former.head) != bool(join):
        raise InputError(
            "this host has another place among several already.",
            hint="Run `partitiond setup --no-cluster --apply` first.",
        )
    if join is not None and bundle is None and not host.file(TOKEN).exists():
        raise InputError(
            "a host joins with the bundle that its head made for it.",
            hint="On the head: `partitiond host certificate --for NAME --address ADDRESS`; copy "
            "the file here, and add --from FILE.",
        )
    place = checked_place(join, address, bundle)
    if former is None:
        return place
    return dataclasses.replace(
        place, name=place.name or former.name, address=place.address or former.address
    )


def _set_up(host: SetupHost, steps: tuple[SetupStep, ...], *, apply: bool, as_json: bool) -> None:
    if not apply:
        _show([step.read_state(host) for step in steps], as_json=as_json)
        if not as_json:
            say("Nothing was changed. `partitiond setup --apply` does what is to do.")
        return
    _finish(_told(changes.apply(host, steps), as_json=as_json), as_json=as_json)


def _undo(
    host: SetupHost, steps: tuple[SetupStep, ...], *, apply: bool, purge: bool, as_json: bool
) -> None:
    if not apply:
        there = changes.there(host, steps)
        outcomes = [StepOutcome(step.key, step.what, StepProgress.TODO) for step in there]
        _show(outcomes, as_json=as_json)
        if not as_json:
            say(
                "Nothing was changed. `partitiond setup --undo --apply` takes these back, in this "
                "order. Data in /var/lib/partitiond and its user stay, unless --purge is given."
                if outcomes
                else "There is nothing of a setup: nothing to undo."
            )
        return
    _finish(_told(changes.undo(host, steps, purge=purge), as_json=as_json), as_json=as_json)


def _told(outcomes: Iterable[StepOutcome], *, as_json: bool) -> list[StepOutcome]:
    """Return all outcomes; report each as soon as it is there, because some take minutes."""
    found = []
    for outcome in outcomes:
        found.append(outcome)
        if not as_json:
            note = f": {outcome.note}" if outcome.note else ""
            say(f"{outcome.state.value:<11} {outcome.what}{note}")
    return found


def _finish(outcomes: list[StepOutcome], *, as_json: bool) -> None:
    if as_json:
        print_json(outcomes)
    elif not outcomes:
        say("There was nothing to do.")
    if any(outcome.state is StepProgress.CANNOT for outcome in outcomes):
        raise typer.Exit(Exit.FAILED)


def _show(outcomes: list[StepOutcome], *, as_json: bool) -> None:
    if as_json:
        print_json(outcomes)
        return
    if not outcomes:
        return

    table = table_of(
        outcomes,
        Column("", lambda outcome: state_text(outcome.state.value)),
        Column("what", lambda outcome: outcome.what),
        Column("how", lambda outcome: outcome.note),
    )
    out().print(table)
