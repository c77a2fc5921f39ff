"""Shows a solve in progress: best value and bound so far, in one line."""

from collections.abc import Callable

from partitiond.cli.plan.words import number, percent
from partitiond.cli.progress import Reporter
from partitiond.core.plan.answers import PlanProgress
from partitiond.core.plan.record import Objective

FIRST = "the plan"


def progress_line(progress: PlanProgress) -> str:
    """The plan in progress and how far it is, as "6 devices, bound 5 (gap 17%)"."""
    what = "" if progress.title == FIRST and progress.steps == 1 else progress.title
    which = f"{progress.step}/{progress.steps} " if progress.steps > 1 else ""
    head = f"{which}{what}".strip()
    figures = _figures(progress)
    return ": ".join(part for part in (head, figures) if part) or "planning"


def _figures(progress: PlanProgress) -> str:
    if progress.value is None:
        return "" if progress.bound is None else f"bound {number(progress.bound)}"
    devices = progress.objective is Objective.MIN_DEVICES
    text = f"{number(progress.value)}{' devices' if devices else ''}"
    if progress.bound is None:
        return text
    gap = "" if progress.gap is None else f" (gap {percent(progress.gap)})"
    return f"{text}, bound {number(progress.bound)}{gap}"


def shown_on(report: Reporter, time_limit_seconds: float | None) -> Callable[[PlanProgress], None]:
    """Make a callback that shows progress as it comes.

    Args:
        report: shows the progress.
        time_limit_seconds: of one plan; if None (not known), no share done is shown.
    """

    def show(progress: PlanProgress) -> None:
        done = None
        if time_limit_seconds:
            of_this = min(1.0, progress.seconds / time_limit_seconds)
            done = min(1.0, (progress.step - 1 + of_this) / max(1, progress.steps))
        report.update(progress_line(progress), done)

    return show
