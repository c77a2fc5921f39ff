"""Judges a run of the tests by what was reported of each.

A test that was collected and has no report was left out, and that is as red as a failure. What
failed has run once more, alone: a test that passes then is a flake, of which a run may have a few.
Nothing here runs a test (see `tests.run`).
"""

import dataclasses
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

MOST_FLAKES: Final = 2
"""More than that in one run are red."""
MOST_ALONE: Final = 8
"""With more failures than that nothing runs again: it is no flake."""
SKIPS: Final = {
    r"GPU|nvidia-": "no NVIDIA GPU",
    r"[Cc]hromium": "no Chromium",
    r"not installed|no promtool|^Skipped: needs [a-z]|makes certificates|cannot look at units"
    r"|nothing can be compiled": "a program that is not here",
    r"root|cgroup|controller|may not|namespaces|/dev/full|systemd": "this user or kernel",
    r"one core|two cores|x86-64|Ray is beside|cannot be replaced": "another kind of machine",
}
"""Reasons for which a test may be skipped, as patterns, and their names in the summary."""


@dataclasses.dataclass
class Case:
    """What became of one test.

    Attributes:
        seconds: of all phases.
        failures: the phases that failed, each as a text with its logs.
        skipped: the reason, or "".
    """

    seconds: float = 0.0
    failures: list[str] = dataclasses.field(default_factory=list)
    skipped: str = ""


@dataclasses.dataclass(frozen=True)
class Run:
    """What was reported of a run: each test that was collected or ran, by its name."""

    collected: frozenset[str]
    cases: Mapping[str, Case]

    @property
    def failed(self) -> list[str]:
        """The tests of which a phase failed."""
        return sorted(name for name, case in self.cases.items() if case.failures)

    @property
    def left_out(self) -> list[str]:
        """The tests that were collected and did not run."""
        return sorted(self.collected - self.cases.keys())


def read(lines: Iterable[str]) -> Run:
    """Read what `tests.reported` wrote. A last line that was cut off is no report."""
    collected: set[str] = set()
    cases: defaultdict[str, Case] = defaultdict(Case)
    for line in lines:
        try:
            row: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        if "collected" in row:
            collected.update(row["collected"])
            continue
        case = cases[row["test"]]
        case.seconds += row["seconds"]
        if row["outcome"] == "failed":
            logs = "".join(f"\n--- {title}\n{text}" for title, text in row["logs"])
            case.failures.append(f"{row['phase']}: {row['why']}{logs}")
        elif row["outcome"] == "skipped":
            case.skipped = row["why"]
    return Run(frozenset(collected), dict(cases))


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The judgement of a run.

    Attributes:
        faults: what makes it red, one line each; empty for a green run.
        flaky: tests that failed, then passed alone.
    """

    faults: Sequence[str]
    flaky: Sequence[str]


def judge(run: Run, alone: Mapping[str, Run], status: int) -> Verdict:
    """Judge a run.

    Args:
        run: all tests.
        alone: what became of each test that failed and ran once more.
        status: how pytest ended: 0 and 1 say that it ran all it should.
    """
    passed = [
        name
        for name, again in alone.items()
        if name in again.cases and not again.cases[name].failures
    ]
    faults = [f"failed: {name}" for name in run.failed if name not in passed]
    flakes = len({event_of(name, run) for name in passed})
    if flakes > MOST_FLAKES:
        faults += [f"one flake of {flakes}, more than {MOST_FLAKES}: {n}" for n in passed]
    faults += [f"left out: {name}" for name in run.left_out]
    faults += [
        f"skipped for a reason that tests/verdict.py does not list: {name}: {case.skipped}"
        for name, case in sorted(run.cases.items())
        if case.skipped and not reason_of(case.skipped)
    ]
    if status not in (0, 1) or (status == 1 and not faults and not passed):
        faults.append(f"pytest ended with status {status}")
    if not run.cases:
        faults.append("no test ran")
    return Verdict(faults, passed)


def event_of(name: str, run: Run) -> str:
    """Return what failed: a test, or for all tests of a file what its fixtures started."""
    setup = run.cases[name].failures[0].startswith("setup: ")
    return name.partition("::")[0] if setup else name


def to_run_again(run: Run) -> list[list[str]]:
    """Return the tests that run once more, in one process each list; none after many failures."""
    events: defaultdict[str, list[str]] = defaultdict(list)
    for name in run.failed:
        events[event_of(name, run)].append(name)
    return list(events.values()) if len(events) <= MOST_ALONE else []


def reason_of(skipped: str) -> str:
    """Return the name of a reason to skip, or "" for one that is not listed."""
    return next((name for text, name in SKIPS.items() if re.search(text, skipped)), "")


def summary(run: Run, minutes: float) -> list[str]:
    """Return the lines that end a run: the slowest tests and files, skips by reason, the time."""
    by_file: Counter[str] = Counter()
    for name, case in run.cases.items():
        by_file[name.partition("::")[0]] += round(case.seconds * 1000)
    slowest = sorted(run.cases.items(), key=lambda row: -row[1].seconds)[:10]
    skips = Counter(reason_of(c.skipped) or "?" for c in run.cases.values() if c.skipped)
    return [
        "Slowest tests: ",
        *(f"  {case.seconds:6.1f} s  {name}" for name, case in slowest),
        "Slowest files:",
        *(f"  {ms / 1000:6.1f} s  {name}" for name, ms in by_file.most_common(10)),
        "Skipped: " + (", ".join(f"{n} for {why}" for why, n in sorted(skips.items())) or "none"),
        f"{minutes:.1f} minutes",
    ]


def counted(run: Run, verdict: Verdict) -> str:
    """Return the last line."""
    skipped = sum(bool(case.skipped) for case in run.cases.values())
    failed = len(set(run.failed) - set(verdict.flaky)) + len(run.left_out)
    passed = len(run.cases) - skipped - len(set(run.failed) - set(verdict.flaky))
    return f"{passed} passed, {failed} failed, {skipped} skipped"


def durations(run: Run) -> list[str]:
    """Return the lines of `tests/durations.txt`: files that take a second or more."""
    by_file: defaultdict[str, float] = defaultdict(float)
    for name, case in run.cases.items():
        by_file[name.partition("::")[0]] += case.seconds
    rows = sorted((file, seconds) for file, seconds in by_file.items() if seconds >= 1)
    return [f"{seconds:.0f} {file}" for file, seconds in rows]
