"""The processes that run tests lose no test, no failure and nothing that a session set up."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests import order, reported
from tests.verdict import Run, read
from tests.workers import END

ROOT = Path(__file__).parents[2]
CONFTEST = """
import os
import pytest
from pathlib import Path
from tests.order import pytest_runtest_protocol
from tests.reported import pytest_configure
from tests.workers import pytest_addoption, pytest_runtestloop

LOG = Path(__file__).with_name("log")
def say(what):
    with LOG.open("a") as log:
        print(what, os.getpid(), file=log)

@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    say(tmp_path_factory.getbasetemp())
    say("begin")
    yield
    say("end")
    assert not LOG.with_name("fails").exists(), "left over"

@pytest.fixture(scope="module")
def own(shared):
    say("own begins")
    yield
    say("own ends")
"""
FILES = {
    "test_a": """
import os, pytest
def test_passes(own): pass
def test_fails(): print("the log"); assert 1 == 2
def test_ends_the_process(): os._exit(3)
def test_skipped(): pytest.skip("no GPU")
""",
    "test_b": "def test_one(own): pass\ndef test_two(own): pass\n",
    "test_c": """
class Left:
    def __init__(self): self.me = self
    def __del__(self): raise ValueError("in what was left")
def test_leaves_what_fails(own): Left()
""",
}


def of(
    folder: Path, *options: str, late: bool = False, begin: int | None = None
) -> tuple[int, str, Run]:
    """How a run of all files ends, what it prints, and what is reported."""
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    if not (folder / "conftest.py").exists():
        (folder / "conftest.py").write_text(CONFTEST)
    report = folder / "report"
    environment = {**os.environ, reported.REPORT: str(report), "PYTHONPATH": str(ROOT)}
    environment[order.DEADLINE] = "0" if late else "inf"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:hypothesispytest", "-p", "no:asyncio",
         "-p", "no:xdist", "-p", "no:cacheprovider", *options, str(folder)],
        env=environment, cwd=folder, check=False, capture_output=True, text=True, timeout=120,
        pass_fds=[] if begin is None else [begin],
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr, read(report.read_text().splitlines())


def short(names: list[str]) -> list[str]:
    return sorted(name.rpartition("test_")[2].rpartition("::")[2] for name in names)


def test_what_became_of_each_test_is_reported_and_what_is_shared_ends(tmp_path: Path) -> None:
    status, _, found = of(tmp_path, "--workers", "2")
    assert (status, found.left_out) == (1, [])
    assert len(found.collected) == 7
    assert short(found.failed) == ["ends_the_process", "fails", END]
    why = {name: case.failures[0] for name, case in found.cases.items() if case.failures}
    texts = {short([name])[0]: text for name, text in why.items()}
    assert "ended with 3" in texts["ends_the_process"]
    assert "assert 1 == 2" in texts["fails"]
    assert "the log" in texts["fails"]
    assert "in what was left" in texts[END]
    assert [case.skipped for case in found.cases.values() if case.skipped] == ["Skipped: no GPU"]
    said = [line.rsplit(" ", 1) for line in (tmp_path / "log").read_text().splitlines()]
    told = Counter(what for what, _ in said)
    assert told["begin"] == 3, "anew for each group"
    folders = [what for what in told if what.startswith("/")]
    assert len(folders) == len({pid for what, pid in said if what == "begin"}) >= 2
    assert told["end"] == told["begin"] - 1, "but for the process that ended in a test"
    assert told["own ends"] == told["own begins"] - 1
    lines = [what for what, pid in said if pid == said[-1][1]]
    assert lines[-2:] == ["own ends", "end"]


@pytest.mark.parametrize("late", [True, False])
def test_a_test_that_does_not_begin_makes_a_run_red(tmp_path: Path, late: bool) -> None:
    dies = "\nos.register_at_fork(after_in_child=lambda: os._exit(9))\n"
    (tmp_path / "conftest.py").write_text(CONFTEST + ("" if late else dies))
    status, said, found = of(tmp_path, "--workers", "2", late=late)
    assert len(found.left_out) == 7
    assert late or (status, "did not begin" in said) == (1, True)


def test_an_end_of_the_session_that_fails_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "fails").touch()
    _, _, found = of(tmp_path, "--workers", "1", "-k", "one")
    assert short(found.failed) == ["one"]
    assert "left over" in found.cases[found.failed[0]].failures[0]


def test_a_run_stops_at_the_first_failure(tmp_path: Path) -> None:
    status, said, _ = of(tmp_path, "--workers", "2", "-x")
    assert status == 1
    assert "stopping after 1 failures" in said


@pytest.mark.parametrize("may", [True, False])
def test_nothing_begins_where_what_the_tests_wait_for_could_not_be_made(
    tmp_path: Path, may: bool
) -> None:
    begin, told = os.pipe()
    os.write(told, b"1" * may)
    os.close(told)
    status, said, found = of(tmp_path, "--begin", str(begin), "-k", "one", begin=begin)
    os.close(begin)
    assert (status == 2, "could not be made" in said) == (not may, not may)
    assert (found.left_out == []) == may
