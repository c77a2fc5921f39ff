"""Runs step 13: the contract tests, which also run on simulated hosts, on this GPU."""

import asyncio
import dataclasses
import importlib.util
import re
import sys
from typing import Final

from bench.gpu_check.lab import Lab
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import ImpossibleError, Trial
from bench.gpu_check.side_by_side import ROOT
from bench.gpu_check.steps import Outcome
from partitiond.core.errors import EngineError

_LINE: Final = re.compile(r"^(\S+::\S.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")
LAST_LINES: Final = 12


@dataclasses.dataclass(frozen=True)
class Contract:
    """Checks that a real host behaves as the simulated host does."""

    number: int = 13
    title: str = "Contract tests"

    def trials(self, _scale: Scale, /) -> tuple[Trial, ...]:
        return (Trial("13.contract", other_seconds=90.0),)

    async def run(self, _trial: Trial, lab: Lab, /) -> Outcome:
        tests = ROOT / "tests" / "contract"
        if not tests.is_dir():
            raise ImpossibleError("the tests are not here: run it in a checkout")
        missing = [n for n in ("pytest", "hypothesis") if importlib.util.find_spec(n) is None]
        if missing:
            raise ImpossibleError(f"{', '.join(missing)} are not installed")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--no-header",
            *lab.scale.contract,
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.terminate()  # pytest's fixtures give the GPU back
                await process.wait()
        return outcome_of(out.decode(errors="replace"), process.returncode or 0)


def outcome_of(text: str, code: int) -> Outcome:
    """The outcomes in pytest's output, as a table. Raises EngineError: it ran no test. Pure."""
    found = [match.groups() for line in text.splitlines() if (match := _LINE.match(line))]
    rows = [{"test": name, "outcome": state.lower()} for name, state in found]
    if not found:
        raise EngineError(f"pytest ran no test and ended with {code}: {' | '.join(_last(text))}")
    failed = sum(state in {"FAILED", "ERROR"} for _, state in found)
    notes = [f"{len(found)} tests, {failed} failed."]
    if failed:
        notes += _last(text)
    return Outcome({"rows": rows, "notes": notes, "failed": failed})


def _last(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()][-LAST_LINES:]
