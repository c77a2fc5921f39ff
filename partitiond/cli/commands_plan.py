"""`plan` and `apply`: what would run where, with its certificate, and making it so."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partitiond.cli.exits import Exit
from partitiond.cli.options import (
    JsonOption,
    NoWaitOption,
    check_time_limit,
    client_of,
    settings_of,
)
from partitiond.cli.output import err, out, print_json, say
from partitiond.core.errors import SpecError
from partitiond.core.plan import Infeasible, Objective, Plan, PlanDiff
from partitiond.ports import PlanPreview

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient
    from partitiond.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("plan")(plan)
    app.command("apply")(apply)


ObjectiveOption = Annotated[
    str | None,
    typer.Option("--objective", metavar="min-devices|max-goodput", help="What it is good at."),
]


def parse_objective(text: str | None) -> Objective | None:
    """Raises SpecError for a word that names none."""
    if text is None:
        return None
    try:
        return Objective(text)
    except ValueError as error:
        names = " or ".join(objective.value for objective in Objective)
        raise SpecError(f"{text!r} is no objective.", hint=f"Use {names}.") from error


def plan(
    ctx: typer.Context,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Plan this fleet file; needs no daemon."),
    ] = None,
    objective: ObjectiveOption = None,
    time_limit: Annotated[
        float | None,
        typer.Option("--time-limit", metavar="SECONDS", help="For the solver (with --from)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what would run where, and how good that provably is.

    Changes nothing. Without --from it asks the daemon: its registered models on this host's
    devices, and what applying the plan would change. With --from it plans a described fleet, of
    any size.
    """
    wanted = parse_objective(objective)
    check_time_limit(time_limit)
    if source is not None:
        from partitiond.cli.offline_plan import plan_file

        result = plan_file(
            source, settings_of(ctx), objective=wanted, time_limit_seconds=time_limit
        )
        found, infeasible = (None, result) if isinstance(result, Infeasible) else (result, None)
        show_plan(found, None, infeasible, as_json=as_json)
        raise typer.Exit(exit_of(found, infeasible))
    with client_of(ctx) as client:
        preview = client.plan(wanted)
    show_preview(preview, as_json=as_json)
    if not as_json and not preview.infeasible and not preview.diff.is_empty:
        say("Nothing is changed yet: partitiond apply")
    raise typer.Exit(exit_of(preview.plan, preview.infeasible))


def exit_of(plan: Plan | None, infeasible: Infeasible | None) -> Exit:
    """UNPLACED where the plan leaves something out."""
    if infeasible is not None or plan is None or plan.unplaced:
        return Exit.UNPLACED
    return Exit.OK


def show_preview(preview: PlanPreview, *, as_json: bool) -> None:
    """A plan with what it changes."""
    show_plan(preview.plan, preview.diff, preview.infeasible, as_json=as_json)


def show_plan(
    plan: Plan | None, diff: PlanDiff | None, infeasible: Infeasible | None, *, as_json: bool
) -> None:
    """The plan drawn, or why there is none; one shape of JSON for both ways of planning."""
    if as_json:
        print_json({"plan": plan, "diff": diff, "infeasible": infeasible})
        return
    if infeasible is not None or plan is None:
        reasons = infeasible or Infeasible(("there is no plan.",), ())
        say("There is no plan that serves what was asked:")
        for reason in reasons.reasons:
            say(f"  - {reason}")
        for remedy in reasons.remedies:
            say(f"  what would help: {remedy}")
        return
    from partitiond.cli.plan_view import render_plan

    out().print(render_plan(plan, diff))


def apply(
    ctx: typer.Context,
    plan_id: Annotated[
        str | None, typer.Argument(metavar="[PLAN]", help="Id of a shown plan; default a new one.")
    ] = None,
    no_wait: NoWaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Apply a plan and wait until it runs.

    Replicas are started before others are drained and stopped: no request is lost.
    """
    settings = settings_of(ctx)
    with client_of(ctx) as client:
        preview = client.apply(plan_id)
        show_preview(preview, as_json=as_json)
        if preview.infeasible is not None:
            raise typer.Exit(Exit.UNPLACED)
        if not no_wait:
            wait_for_plan(client, preview.plan, settings)
            say(f"All {len(preview.plan.placements)} replicas serve.")
    raise typer.Exit(exit_of(preview.plan, preview.infeasible))


def wait_for_plan(client: "ControlClient", plan: Plan, settings: "Settings") -> None:
    """Wait until every replica of the plan serves. Engines start one at a time per device."""
    from partitiond.cli.waiting import wait_until_serving

    wanted = [placement.replica_id for placement in plan.placements]
    deadline = settings.engine.start_deadline_seconds * max(1, len(wanted))
    wait_until_serving(client, wanted, err(), deadline_seconds=deadline)
