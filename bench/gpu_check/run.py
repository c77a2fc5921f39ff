"""Runs the loop: asks the schedule, makes the trial, keeps its result, until nothing fits."""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.gpu_check import report
from bench.gpu_check.lab import Lab
from bench.gpu_check.ledger import Ledger, replace_file
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import (
    NOT_ASKED,
    Costs,
    ImpossibleError,
    Next,
    Stop,
    Trial,
    foreseen,
    in_order,
    next_trial,
)
from bench.gpu_check.steps import Step, all_steps
from partitiond.core.errors import PartitiondError

INTERRUPTED = "the run was interrupted"


@dataclasses.dataclass(frozen=True, slots=True)
class Budget:
    """Seconds of one run, counted from `began` (monotonic)."""

    seconds: float
    began: float

    @property
    def used(self) -> float:
        """Seconds used so far."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds left until the end."""
        return self.seconds - self.used


class Check:
    """One run of the steps on a lab.

    Args:
        plan: names of the trials to make, by value (`scale.PLANS`).
        only: steps that may run, with what they need; empty for all.
        after_trial: called whenever a trial has ended, so that a kill loses no report.

    Attributes:
        tried: trials of this run, in order.
        failed: trials of this run that did not succeed.
        not_reached: reason by trial; until the run is over, that it was interrupted, which is what
            the report of a killed run has to say.
    """

    def __init__(
        self,
        lab: Lab,
        budget: Budget,
        plan: Sequence[str],
        say: Callable[[str], None],
        *,
        only: frozenset[int] = frozenset(),
        after_trial: Callable[[], object] = lambda: None,
    ) -> None:
        self._lab = lab
        self._budget = budget
        self._only = only
        self._say = say
        self._steps = {step.number: step for step in all_steps()}
        every = [trial for step in self._steps.values() for trial in step.trials(lab.scale)]
        self._trials = in_order(every, plan)
        self._after_trial = after_trial
        self.tried: list[str] = []
        self.failed: set[str] = set()
        self.not_reached: Mapping[str, str] = self._open()

    async def run(self) -> None:
        """Make trials until nothing fits. Cancelling leaves no engine running."""
        try:
            while isinstance(decision := self._decide(self._budget.left), Next):
                step = self._steps[decision.trial.step]
                self._say(
                    f"{decision.trial.id}: {step.title} (about {decision.expected_seconds:.0f} s, "
                    f"{self._left:.0f} s left)"
                )
                await self._make(step, decision.trial)
            self.not_reached = decision.not_reached
        finally:
            await self._lab.loaders.close()

    def _open(self) -> Mapping[str, str]:
        # With no seconds left the schedule names every trial that is not done.
        end = self._decide(0.0)
        return dict.fromkeys(end.not_reached if isinstance(end, Stop) else (), INTERRUPTED)

    def tell_plan(self) -> None:
        """Say which trials the budget should be enough for, by when, and for which not."""
        ledger, at = self._lab.ledger, self._budget.used
        planned, end = foreseen(
            self._trials, ledger.entries, self._costs, self._budget.left, only=self._only
        )
        for found in planned:
            at += found.expected_seconds
            self._say(f"planned: {found.trial.id} by {at:.0f} s")
        missed = [name for name, why in end.not_reached.items() if why != NOT_ASKED]
        if missed:
            self._say(f"not planned: {', '.join(missed)}")

    @property
    def _costs(self) -> Costs:
        return self._lab.scale.costs.learned(self._lab.ledger.starts)

    @property
    def _left(self) -> float:
        return self._budget.left - self._costs.reserve_seconds

    def _decide(self, seconds_left: float) -> Next | Stop:
        return next_trial(
            self._trials,
            self._lab.ledger.entries,
            self._costs,
            seconds_left,
            only=self._only,
            tried_now=frozenset(self.failed),
        )

    async def _make(self, step: Step, trial: Trial) -> None:
        ledger, began = self._lab.ledger, time.monotonic()
        self.tried.append(trial.id)
        try:
            async with asyncio.timeout(self._left):
                outcome = await step.run(trial, self._lab)
        except TimeoutError:
            self.failed.add(trial.id)
            ledger.cut(trial.id, time.monotonic() - began)
            self._say(f"{trial.id}: cut by the budget")
        except asyncio.CancelledError:
            ledger.cut(trial.id, time.monotonic() - began)
            raise
        except (PartitiondError, OSError) as error:
            self.failed.add(trial.id)
            ledger.failed(trial.id, time.monotonic() - began, str(error))
            self._say(f"{trial.id}: failed: {error}")
        except ImpossibleError as reason:
            self.failed.add(trial.id)
            ledger.impossible(trial.id, time.monotonic() - began, str(reason))
            self._say(f"{trial.id}: not possible here: {reason}")
        else:
            ledger.done(trial.id, time.monotonic() - began, outcome.data)
        finally:
            self.not_reached = self._open()
            self._after_trial()


def write_report(
    folder: Path,
    scale: Scale,
    *,
    ledger: Ledger | None,
    budget: Budget,
    tried: tuple[str, ...] = (),
    not_reached: Mapping[str, str],
    headline: str = "",
) -> Path:
    """Write report.html and report.md; return the latter's path."""
    steps = [(step.number, step.title, step.trials(scale)) for step in all_steps()]
    began = datetime.now(UTC).isoformat(timespec="seconds")
    run = report.Run(began, budget.seconds, budget.used, tried)
    parts = report.sections(ledger, steps, not_reached, run, headline=headline)
    path = folder / "report.md"
    replace_file(path.with_suffix(".html"), report.page(parts))
    replace_file(path, report.markdown(parts))
    return path
