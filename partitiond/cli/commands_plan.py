"""`plan` and `apply`: what would run where, with its certificate, and making it so."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
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
from partitiond.core.errors import InputError, SpecError
from partitiond.core.plan import Infeasible, Objective, Plan, PlanDiff
from partitiond.core.plan_answers import NO_ANSWERS, PlanAnswers, PlanQuestion
from partitiond.ports import PlanPreview

if TYPE_CHECKING:
    from partitiond.cli.offline_plan import OnProgress
    from partitiond.client.client import ControlClient
    from partitiond.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("plan")(plan)
    app.command("apply")(apply)


ObjectiveOption = Annotated[
    str | None,
    typer.Option(
        "--objective",
        metavar="NAME",
        help="What it is good at: " + ", ".join(objective.value for objective in Objective) + ".",
    ),
]
WHAT_IF_HELP = (
    "Plan a change as well and show both; may be repeated. "
    '"+2 a100-80gb", "-1 h100-80gb", "lose gpu-3", "lose host NAME", "demand MODEL=50/s", '
    '"demand MODEL*2", "no mig", "only mps", "objective max-min", "without rule MODEL.slo", '
    '"without model MODEL"; several at once with ";".'
)


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
    *,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Plan this fleet file; needs no daemon."),
    ] = None,
    objective: ObjectiveOption = None,
    what_if: Annotated[
        list[str] | None, typer.Option("--what-if", metavar="CHANGE", help=WHAT_IF_HELP)
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="MODEL", help="Why it is where it is, and what else."),
    ] = None,
    constraints: Annotated[
        bool, typer.Option("--constraints", help="What each SLO, isolation, limit and rule costs.")
    ] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="What changes in full: time, weights, peak memory.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", metavar="FILE", help="A plan saved with --json that runs (with --from)."
        ),
    ] = None,
    relax: Annotated[
        bool,
        typer.Option(
            "--relax/--no-relax", help="Where not all fits: what conflicts, what would help."
        ),
    ] = True,
    time_limit: Annotated[
        float | None,
        typer.Option(
            "--time-limit",
            metavar="SECONDS",
            help="For the solver, after the estimates (with --from).",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of every random choice (with --from).")
    ] = None,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic", help="One seed gives one plan on any machine (with --from)."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what would run where, and how good that provably is.

    Changes nothing. Without --from it asks the daemon: its registered models on this host's
    devices, and what applying the plan would change. With --from it plans a described fleet, of
    any size. Interrupted (Ctrl-C) it shows what is known by then, or ends.
    """
    question = PlanQuestion(
        objective=parse_objective(objective),
        what_if=tuple(what_if or ()),
        constraints=constraints,
        explain=explain,
        relax=relax,
    )
    check_what_ifs(question)
    check_time_limit(time_limit)
    if source is None:
        only_offline(against=against, time_limit=time_limit, seed=seed, deterministic=deterministic)
        ask_daemon(ctx, question, full=diff, as_json=as_json)
        return
    from partitiond.cli.offline_plan import OfflineOptions, plan_file

    if diff and against is None:
        raise InputError(
            "--diff with --from needs a plan to compare with.",
            hint="Save one with --json > plan.json, and name it: --against plan.json.",
        )
    options = OfflineOptions(time_limit, seed, deterministic, against)
    settings = settings_of(ctx)
    with progress_shown(time_limit or settings.planner.time_limit_seconds) as show:
        found = plan_file(source, settings, question, options, show)
    shown = Shown(found.plan, found.diff, found.infeasible, found.answers)
    show_plan(shown, full=True, as_json=as_json)
    raise typer.Exit(exit_of(found.plan, found.infeasible))


def check_what_ifs(question: PlanQuestion) -> None:
    """Raises InputError for one that cannot be read: before anything is solved or asked."""
    if question.what_if:
        from partitiond.planner.changes import parse_changes

        for text in question.what_if:
            parse_changes(text)


def only_offline(**given: object) -> None:
    """Raises InputError for an option that the daemon does not take."""
    for name, value in given.items():
        if value not in (None, False):
            raise InputError(
                f"--{name.replace('_', '-')} is for --from FILE.",
                hint="The daemon plans by its own settings: `partitiond config show`.",
            )


def ask_daemon(ctx: typer.Context, question: PlanQuestion, *, full: bool, as_json: bool) -> None:
    """Ask the daemon, show its answer, and exit."""
    with client_of(ctx) as client, progress_shown(None) as show:
        preview = client.plan(question, show)
    show_preview(preview, full=full, as_json=as_json)
    if not as_json and not preview.infeasible and not preview.diff.is_empty:
        more = "" if full else " (partitiond plan --diff says what it takes)"
        say(f"Nothing is changed yet: partitiond apply{more}")
    raise typer.Exit(exit_of(preview.plan, preview.infeasible))


@contextmanager
def progress_shown(time_limit_seconds: float | None) -> "Iterator[OnProgress | None]":
    """Shows a solve as it goes on, on a terminal; a log gets nothing of it."""
    from partitiond.cli.plan_progress import shown_on
    from partitiond.cli.render_progress import reporting

    if not err().is_terminal:
        yield None
        return
    with reporting(err()) as report:
        report.update("reading what is to be planned")
        yield shown_on(report, time_limit_seconds)


def exit_of(plan: Plan | None, infeasible: Infeasible | None) -> Exit:
    """UNPLACED where the plan leaves something out."""
    if infeasible is not None or plan is None or plan.unplaced:
        return Exit.UNPLACED
    return Exit.OK


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """What is shown of a plan; one shape of JSON for both ways of planning."""

    plan: Plan | None
    diff: PlanDiff | None
    infeasible: Infeasible | None
    answers: PlanAnswers = NO_ANSWERS


def show_preview(preview: PlanPreview, *, full: bool = False, as_json: bool) -> None:
    """A plan with what it changes."""
    plan = None if preview.infeasible is not None else preview.plan
    shown = Shown(plan, preview.diff, preview.infeasible, preview.answers)
    show_plan(shown, full=full, as_json=as_json)


def show_plan(shown: Shown, *, full: bool, as_json: bool) -> None:
    """The plan drawn with what else was asked, or why there is none.

    Args:
        full: changes with the time and memory they take.
    """
    if as_json:
        print_json(fields_of(shown))
        return
    from partitiond.cli.plan_answers import render_answers
    from partitiond.cli.plan_steps import outage_lines
    from partitiond.cli.plan_view import render_plan

    if shown.plan is not None:
        takes = shown.answers.diff if full else None
        out().print(render_plan(shown.plan, shown.diff, takes))
        if takes is None and shown.answers.diff is not None:
            for line in outage_lines(shown.answers.diff):
                out().print(line)
    out().print(render_answers(shown.plan, shown.infeasible, shown.answers))


def fields_of(shown: Shown) -> dict[str, object]:
    """Its fields by name, values as they are."""
    return {field.name: getattr(shown, field.name) for field in dataclasses.fields(shown)}


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
