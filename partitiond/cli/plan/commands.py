"""Implements `plan` and `apply`: shows what would run where, with its certificate, and runs it."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partitiond.cli.exits import Exit
from partitiond.cli.ids import PlanArgument, with_id
from partitiond.cli.options import (
    AllOption,
    JsonOption,
    NoWaitOption,
    check_time_limit,
    client_of,
    option,
    settings_of,
    spread,
)
from partitiond.cli.output import err, out, print_json, say
from partitiond.cli.plan.answers import AnswersView
from partitiond.cli.plan.progress import shown_on
from partitiond.cli.plan.steps import MAX_STEPS, outage_lines
from partitiond.cli.plan.view import render_plan
from partitiond.cli.progress import reporting
from partitiond.cli.waiting import all_serve, wait_for_plan
from partitiond.core.errors import ConflictError, InputError, NotFoundError, SpecError
from partitiond.core.plan.answers import NO_ANSWERS, PlanAnswers, PlanQuestion
from partitiond.core.plan.objectives import objectives_told
from partitiond.core.plan.record import Infeasible, Objective, Plan, PlanDiff
from partitiond.core.views.preview import PlanPreview
from partitiond.planner.answers.changes import parse_changes

if TYPE_CHECKING:
    from partitiond.cli.plan.offline import OnProgress
    from partitiond.client.client import ControlClient

WHAT_IF_HELP = (
    "Plan a change as well and show both; may be repeated. "
    '"+2 a100-80gb", "-1 h100-80gb", "lose gpu-3", "lose host NAME", "demand MODEL=50/s", '
    '"demand MODEL*2", "no mig", "only mps", "objective max-min", "without rule MODEL.slo", '
    '"without model MODEL"; several at once with ";".'
)


AllowOutageOption = Annotated[
    bool,
    typer.Option(
        "--allow-outage",
        help="A model may have no replica: for a while, where old and new do not fit side by side, "
        "or until there is room again.",
    ),
]


def parse_objective(text: str | None) -> Objective | None:
    """Return the objective of a name. Raises SpecError if it names none."""
    if text is None:
        return None
    try:
        return Objective(text)
    except ValueError as error:
        hint = f"Use one of these: {objectives_told()}."
        raise SpecError(f"{text!r} is no objective.", hint=hint) from error


@spread
def plan(
    ctx: typer.Context,
    *,
    source: Path | None = option(
        "Plan this fleet file; needs no daemon.", "--from", metavar="FILE"
    ),
    objective: str | None = option(
        f"{objectives_told()}. Take {Objective.MIN_DEVICES} first. Default: the setting "
        "planner.objective, min-devices where it is not set.",
        metavar="NAME",
    ),
    what_if: list[str] | None = option(WHAT_IF_HELP, metavar="CHANGE"),
    explain: str | None = option("Why it is where it is, and what else.", metavar="MODEL"),
    move_price: float | None = option(
        "What moving a running replica costs; 0 for the best plan whatever it moves. "
        "Default: planner.move_price.",
        metavar="DEVICES",
        min=0.0,
    ),
    allow_outage: AllowOutageOption = False,
    diff: bool = option("What changes in full: time, weights, peak memory."),
    against: Path | None = option(
        "A plan saved with --json that runs (with --from).", metavar="FILE"
    ),
    relax: bool = option(
        "Where not all fits: what would help.", "--relax/--no-relax", default=True
    ),
    time_limit: float | None = option(
        "For the solver, after the estimates (with --from).", metavar="SECONDS"
    ),
    seed: int | None = option("Of every random choice (with --from)."),
    deterministic: bool = option("One seed gives one plan on any machine (with --from)."),
    everything: AllOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what would run where, and how good that provably is.

    Changes nothing. Without --from it asks the daemon: its registered models on the devices of all
    hosts, and what applying the plan would change. With --from it plans a described fleet, of any
    size. Interrupted (Ctrl-C) it shows what is known by then, or ends.
    """
    question = PlanQuestion(
        objective=parse_objective(objective),
        what_if=tuple(what_if or ()),
        explain=explain,
        relax=relax,
        move_price=move_price,
        allow_outage=allow_outage,
    )
    check_what_ifs(question)
    check_time_limit(time_limit)
    if source is None:
        only_offline(against=against, time_limit=time_limit, seed=seed, deterministic=deterministic)
        ask_daemon(ctx, question, full=diff, everything=everything, as_json=as_json)
        return

    if diff and against is None:
        raise InputError(
            "--diff with --from needs a plan to compare with.",
            hint="Save one with --json > plan.json, and name it: --against plan.json.",
        )
    from partitiond.cli.plan.offline import OfflineOptions, plan_file  # takes a second: OR-Tools

    options = OfflineOptions(time_limit, seed, deterministic, against)
    settings = settings_of(ctx)
    with progress_shown(time_limit or settings.planner.time_limit_seconds) as show:
        found = plan_file(source, settings, question, options, show)
    shown = ShownPlan(found.plan, found.diff, found.infeasible, found.answers)
    show_plan(shown, full=True, everything=everything, as_json=as_json)
    raise typer.Exit(exit_of(found.plan, found.infeasible))


def check_what_ifs(question: PlanQuestion) -> None:
    """Raises InputError for a change that cannot be parsed, before anything is solved or asked."""
    if question.what_if:
        for text in question.what_if:
            parse_changes(text)


def only_offline(**given: object) -> None:
    """Raises InputError for an option that the daemon does not take."""
    for name, value in given.items():
        if value not in (None, False):
            raise InputError(
                f"--{name.replace('_', '-')} is for --from FILE.",
                hint="The daemon plans by its own settings: `partitiond setup config show`.",
            )


def ask_daemon(
    ctx: typer.Context, question: PlanQuestion, *, full: bool, everything: bool, as_json: bool
) -> None:
    """Ask the daemon, show its answer, and exit."""
    with client_of(ctx) as client, progress_shown(None) as show:
        preview = client.plan(question, show)
    show_preview(preview, full=full, everything=everything, as_json=as_json)
    if not as_json and not preview.infeasible and not preview.diff.is_empty:
        more = "" if full else " (partitiond plan --diff says what it takes)"
        say(f"Nothing is changed yet: partitiond apply {preview.plan.id}{more}")
    raise typer.Exit(exit_of(preview.plan, preview.infeasible))


@contextmanager
def progress_shown(time_limit_seconds: float | None) -> "Iterator[OnProgress | None]":
    """Show the progress of a solve on a terminal; nothing is written elsewhere."""
    if not err().is_terminal:
        yield None
        return
    with reporting(err()) as report:
        report.update("reading what is to be planned")
        yield shown_on(report, time_limit_seconds)


def plan_and_apply(client: "ControlClient", *, allow_outage: bool = False) -> PlanPreview:
    """Make a plan of the current situation, with its progress shown, and apply it.

    Raises:
        ConflictError: no plan serves what was asked, or the situation changed during each solve.
    """
    with progress_shown(None) as show:
        preview = client.plan(PlanQuestion(allow_outage=allow_outage), show)
    if preview.infeasible is not None:
        raise ConflictError(
            f"no plan serves what was asked: {'; '.join(preview.infeasible.reasons)}",
            hint=" ".join(preview.infeasible.remedies),
        )
    try:
        return client.apply(preview.plan.id, allow_outage=allow_outage)
    except ConflictError as error:
        if "changed" not in error.facts:
            raise
        # The daemon solves again, until nothing changes meanwhile.
        return client.apply(allow_outage=allow_outage)


def apply_named(client: "ControlClient", given: str, *, allow_outage: bool) -> PlanPreview:
    """Apply the plan with this id, this number, or the only id with this prefix.

    Raises:
        NotFoundError: no plan that can be applied has such an id.
        InputError: several ids have this prefix.
    """
    known: list[str] = []

    def use(plan_id: str) -> PlanPreview:
        try:
            return client.apply(plan_id, allow_outage=allow_outage)
        except NotFoundError as error:
            found = error.facts.get("plans")
            known.extend(found if isinstance(found, list) else ())
            raise

    return with_id("plan", given, use, lambda: known)


def exit_of(plan: Plan | None, infeasible: Infeasible | None) -> Exit:
    """Return UNPLACED if there is no plan, or if it leaves out or holds back something; else OK."""
    if infeasible is not None or plan is None or plan.unplaced or plan.held_back:
        return Exit.UNPLACED
    return Exit.OK


@dataclasses.dataclass(frozen=True, slots=True)
class ShownPlan:
    """The shown parts of a plan; the JSON has one shape for both ways of planning."""

    plan: Plan | None
    diff: PlanDiff | None
    infeasible: Infeasible | None
    answers: PlanAnswers = NO_ANSWERS


def show_preview(
    preview: PlanPreview, *, full: bool = False, everything: bool = False, as_json: bool
) -> None:
    """Show a plan with what it changes."""
    plan = None if preview.infeasible is not None else preview.plan
    shown = ShownPlan(plan, preview.diff, preview.infeasible, preview.answers)
    show_plan(shown, full=full, everything=everything, as_json=as_json)


def show_plan(shown: ShownPlan, *, full: bool, everything: bool = False, as_json: bool) -> None:
    """Draw the plan with the other answers, or show why there is none.

    Args:
        full: show changes with the time and memory they take.
        everything: show all of them even for a large fleet.
    """
    if as_json:
        print_json(fields_of(shown))
        return

    if shown.plan is not None:
        takes = shown.answers.diff if full else None
        out().print(render_plan(shown.plan, shown.diff, takes, everything=everything))
        if takes is None and shown.answers.diff is not None:
            most = None if everything else MAX_STEPS
            for line in outage_lines(shown.answers.diff, most=most):
                out().print(line)
    out().print(AnswersView(shown.plan, shown.infeasible, shown.answers))


def fields_of(shown: ShownPlan) -> dict[str, object]:
    """Return the fields by name, with their values as they are."""
    return {field.name: getattr(shown, field.name) for field in dataclasses.fields(shown)}


def apply(
    ctx: typer.Context,
    plan_id: PlanArgument = None,
    allow_outage: AllowOutageOption = False,
    no_wait: NoWaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Apply a plan and wait until it runs.

    That is when all of it serves, and what it replaces is gone.

    Replicas are started before others are drained and stopped: no request is lost. A replica that
    fails again and again ends the wait once all others are done. Interrupted (Ctrl-C), the daemon
    goes on; `apply` with the id of the applied plan waits for it again.
    """
    with client_of(ctx) as client:
        if plan_id is None:
            preview = plan_and_apply(client, allow_outage=allow_outage)
        else:
            preview = apply_named(client, plan_id, allow_outage=allow_outage)
        show_preview(preview, as_json=as_json)
        if preview.infeasible is not None:
            raise typer.Exit(Exit.UNPLACED)
        if not no_wait:
            say(f"{all_serve(wait_for_plan(client, preview.plan.id, err()))}.")
    raise typer.Exit(exit_of(preview.plan, preview.infeasible))
