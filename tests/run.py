"""Runs the tests of a tier, judges the run, and keeps the logs of what failed.

    python -m tests.run test|full|all|soak [--record] [arguments of pytest]

`test` and `full` are the tiers of the Makefile; `all` is both in one run. What failed runs once
more, each test alone in a process of its own (see `tests.verdict`). `--record` writes
`tests/durations.txt`, by which the longest files begin first.

Variables: WORKERS (processes); make targets, all begun at once, for a compiler and a download use
one core each: IMPORTED (of what tests import), BEFORE (what the first test waits for), BESIDE (what
is checked beside them); TESTS_BEGIN_BEFORE (seconds since 1970; what would begin later is left out,
and the run is red).
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from tests.order import DURATIONS
from tests.reported import REPORT
from tests.verdict import Run, counted, durations, judge, read, summary, to_run_again

ROOT: Final = Path(__file__).resolve().parents[1]
LOGS: Final = ROOT / ".test-logs"
_BY_HAND: Final = "soak or quarantine"
TIERS: Final = {
    "test": f"not full and not gpu and not ({_BY_HAND})",
    "full": f"(full or gpu) and not ({_BY_HAND})",
    "all": f"not ({_BY_HAND})",
    "soak": _BY_HAND,
}
"""The tests of each tier, by their markers."""
ALONE_SECONDS: Final = 1200
"""Limit for hangs of one test that runs once more."""
LAST_LINES: Final = 100
"""Of the logs of a failure that are printed; the whole text lies in the folder of logs."""


def main(arguments: Sequence[str]) -> int:
    """Run a tier; the exit status says whether it is green."""
    tier, *more = arguments
    record = "--record" in more
    more = [argument for argument in more if argument != "--record"]
    begun = time.monotonic()
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir()
    (LOGS / ".gitignore").write_text("*\n")
    # Sockets lie in the folders of tests, and their paths may have 107 bytes: a short one for all.
    folder = Path(tempfile.mkdtemp(prefix="pd."))
    print(f"Folders of the tests: {folder}; logs: {LOGS.name}/", flush=True)
    imported, before, beside = (_started(variable) for variable in ("IMPORTED", "BEFORE", "BESIDE"))
    if waited := {**imported, **before}:
        print("The tests wait for make", *waited, f"(logs: {LOGS.name}/*.log)", flush=True)
    missing = _ended(imported)
    begin, may_begin = os.pipe()
    workers = ["--workers", os.environ.get("WORKERS", "4"), "--begin", str(begin)]
    tests = _begun(
        [*workers, "-m", TIERS[tier], "--basetemp", str(folder / "t"), *more], "all", (begin,)
    )
    missing += _ended(before)
    if not missing:
        os.write(may_begin, b"1")
    os.close(may_begin)
    status = _ended_in(tests, None)
    if missing:
        for process, _ in beside.values():
            process.terminate()
        shutil.rmtree(folder)
        print(*missing, "red", sep="\n", flush=True)
        return 1
    run = _report("all")
    alone = {}
    for number, names in enumerate(to_run_again(run)):
        print("\nOnce more, alone:", *names, sep="\n  ", flush=True)
        again = _begun(["--basetemp", str(folder / f"a{number}"), *names], f"alone-{number}")
        with contextlib.suppress(subprocess.TimeoutExpired):
            _ended_in(again, ALONE_SECONDS)
        alone.update(dict.fromkeys(names, _report(f"alone-{number}")))
    verdict = judge(run, alone, status)
    faults = [*verdict.faults, *_ended(beside)]
    for name in run.failed:
        _print_failure(name, run, "flaky" if name in verdict.flaky else "failed")
        if name in alone and name not in verdict.flaky:
            _print_failure(name, alone[name], "failed again, alone")
    print("", *summary(run, (time.monotonic() - begun) / 60), sep="\n")
    for name in verdict.flaky:
        print(f"flaky: {name} (mend it in the next change; its log is above)")
    print(*faults, sep="\n")
    if record and not faults:
        DURATIONS.write_text("".join(f"{row}\n" for row in durations(run)), encoding="utf-8")
    if not faults:
        shutil.rmtree(folder, ignore_errors=True)
    print("red" if faults else "green", counted(run, verdict), sep="\n", flush=True)
    return 1 if faults else 0


def _begun(
    arguments: Sequence[str], report: str, passed: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "pytest", "--tb", "short", "--show-capture", "no", "-r", "fE", "-q",
        *arguments,
    ]  # fmt: skip
    environment = {**os.environ, REPORT: str(LOGS / f"{report}.jsonl")}
    return subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=passed)


def _ended_in(tests: subprocess.Popen[bytes], seconds: float | None) -> int:
    """Wait for the tests; they do not outlive the wait. Raises TimeoutExpired."""
    try:
        return tests.wait(seconds)
    finally:
        tests.terminate()  # nothing where they have ended
        tests.wait()


def _report(name: str) -> Run:
    file = LOGS / f"{name}.jsonl"
    return read(file.read_text(encoding="utf-8").splitlines() if file.exists() else ())


Targets = dict[str, tuple[subprocess.Popen[bytes], IO[bytes]]]


def _started(variable: str) -> Targets:
    """Begin to make the targets that a variable of the environment names."""
    return {target: _make(target) for target in os.environ.get(variable, "").split()}


def _make(target: str) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    log = (LOGS / f"{target}.log").open("w+b")
    command = ["make", "--no-print-directory", target]
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT), log


def _ended(beside: Targets) -> list[str]:
    """Wait for targets, print what they said, and return what failed."""
    faults = []
    for name, (process, log) in beside.items():
        status = process.wait()
        log.seek(0)
        print(f"\nmake {name}", log.read().decode(errors="replace").rstrip(), sep="\n")
        log.close()
        if status:
            faults.append(f"failed: make {name}")
    return faults


def _print_failure(name: str, run: Run, what: str) -> None:
    for number, text in enumerate(run.cases[name].failures):
        digest = hashlib.sha256(f"{name} {what} {number}".encode()).hexdigest()
        file = LOGS / f"{digest[:12]}.log"
        file.write_text(f"{name}\n{text}", encoding="utf-8")
        lines = text.splitlines()
        print(f"\n===== {what}: {name} ({file.relative_to(ROOT)})")
        if len(lines) > LAST_LINES:
            print(f"... {len(lines) - LAST_LINES} lines more")
        print(*lines[-LAST_LINES:], sep="\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
