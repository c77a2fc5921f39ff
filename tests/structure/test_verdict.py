"""A run is green only if each test that was collected ran and passed, but for two flakes."""

import json
from pathlib import Path

import pytest

from tests.verdict import Run, counted, durations, judge, read, reason_of, summary, to_run_again

ROOT = Path(__file__).parents[2]
GREEN, FAILED = 0, 1


def run(**outcomes: str) -> Run:
    """A run of tests with these outcomes: passed, failed, a reason to skip, or "" for no report."""
    rows: list[dict[str, object]] = [{"collected": list(outcomes)}]
    for name, outcome in outcomes.items():
        row: dict[str, object] = {"test": name, "phase": "call", "seconds": 1.5}
        if outcome in ("passed", "failed"):
            rows.append({**row, "outcome": outcome, "why": "E", "logs": [["log", "said"]]})
        elif outcome:
            rows.append({**row, "phase": "setup", "outcome": "skipped", "why": outcome})
    return read(map(json.dumps, rows))


def test_a_run_whose_tests_all_passed_is_green() -> None:
    assert not judge(run(a="passed", b="no NVIDIA GPU here"), {}, GREEN).faults


def test_what_fails_again_alone_is_red() -> None:
    verdict = judge(run(a="failed", b="passed"), {"a": run(a="failed")}, FAILED)
    assert (verdict.faults, verdict.flaky) == (["failed: a"], [])


def test_what_failed_and_could_not_run_again_is_red() -> None:
    assert judge(run(a="failed"), {"a": read([])}, FAILED).faults == ["failed: a"]
    assert judge(run(a="failed"), {}, FAILED).faults == ["failed: a"]


@pytest.mark.parametrize(("flakes", "red"), [("a", False), ("ab", False), ("abc", True)])
def test_two_flakes_are_told_and_three_are_red(flakes: str, red: bool) -> None:
    whole = run(**dict.fromkeys(flakes, "failed"), z="passed")
    alone = {name: run(**{name: "passed"}) for name in flakes}
    verdict = judge(whole, alone, FAILED)
    assert bool(verdict.faults) is red
    assert verdict.flaky == list(flakes)


def test_what_a_file_started_in_vain_is_one_flake_and_runs_again_in_one_process() -> None:
    rows: list[dict[str, object]] = [{"collected": ["f::a", "f::b", "f::c", "g::a"]}]
    for name, phase in (("f::a", "setup"), ("f::b", "setup"), ("f::c", "setup"), ("g::a", "call")):
        rows.append({"test": name, "phase": phase, "seconds": 1.0, "outcome": "failed",
                     "why": "E", "logs": []})  # fmt: skip
    whole = read(map(json.dumps, rows))
    assert to_run_again(whole) == [["f::a", "f::b", "f::c"], ["g::a"]]
    names = whole.failed
    again = run(**dict.fromkeys(names, "passed"))
    verdict = judge(whole, dict.fromkeys(names, again), FAILED)
    assert (verdict.faults, verdict.flaky) == ([], names)
    one = run(**dict.fromkeys(names[1:], "passed"), **{names[0]: "failed"})
    assert judge(whole, dict.fromkeys(names, one), FAILED).faults == ["failed: f::a"]


def test_after_many_failures_nothing_runs_again() -> None:
    assert not to_run_again(run(**dict.fromkeys("abcdefghi", "failed")))
    assert len(to_run_again(run(**dict.fromkeys("abcdefgh", "failed")))) == 8


def test_what_was_left_out_is_red_and_named() -> None:
    assert judge(run(a="passed", b=""), {}, GREEN).faults == ["left out: b"]


def test_a_skip_for_an_unknown_reason_is_red() -> None:
    (fault,) = judge(run(a="I felt like it", b="passed"), {}, GREEN).faults
    assert "a: I felt like it" in fault
    assert reason_of("Skipped: needs an NVIDIA GPU") == "no NVIDIA GPU"
    assert reason_of("Skipped: nvidia-cuda-mps-control is not installed") == "no NVIDIA GPU"
    assert reason_of("Skipped: openssl is not installed here") == "a program that is not here"


@pytest.mark.parametrize("status", [2, 3, 4, 5, -9])
def test_a_pytest_that_broke_is_red(status: int) -> None:
    assert judge(run(a="passed"), {}, status).faults == [f"pytest ended with status {status}"]


def test_a_pytest_that_failed_without_a_failure_is_red() -> None:
    assert judge(run(a="passed"), {}, FAILED).faults == ["pytest ended with status 1"]


def test_a_run_without_tests_is_red() -> None:
    assert "no test ran" in judge(run(), {}, GREEN).faults


def test_the_summary_names_skips_by_reason_the_slowest_and_the_time() -> None:
    text = "\n".join(summary(run(a="passed", b="no GPU", c="no GPU"), 2.5))
    assert "2 for no NVIDIA GPU" in text
    assert "1.5 s  a" in text
    assert "2.5 minutes" in text


def test_the_last_line_counts() -> None:
    whole = run(a="passed", b="failed", c="failed", d="no GPU", e="")
    verdict = judge(whole, {"b": run(b="passed"), "c": run(c="failed")}, FAILED)
    assert counted(whole, verdict) == "2 passed, 2 failed, 1 skipped"


def test_files_of_a_second_are_recorded() -> None:
    found = run(**{"x.py::a": "passed", "x.py::b": "passed"})
    assert durations(found) == ["3 x.py"]


def test_a_report_that_was_cut_off_is_none() -> None:
    assert read(['{"collected": ["a"]}', '{"test": "a", "pha']).left_out == ["a"]
