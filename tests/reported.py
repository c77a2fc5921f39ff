"""Writes what became of each test into a file, while the tests run.

Each line is a JSON object: `collected` (a list of tests), or the report of one phase of one test.
"""

import json
import os
from pathlib import Path
from typing import Any, Final

import pytest

REPORT: Final = "TESTS_REPORT"
"""The environment's name for the file. Without it nothing is written."""
REPORTER: Final = "reported"
"""The name of the plugin."""


class Reporter:
    """The plugin of the process that hears of all tests.

    Args:
        file: is appended to.
    """

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", encoding="utf-8")

    def _write(self, **row: object) -> None:
        print(json.dumps(row), file=self._file, flush=True)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._write(collected=sorted(item.nodeid for item in session.items))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        row: dict[str, Any] = {
            "test": report.nodeid,
            "phase": report.when,
            "outcome": report.outcome,
            "seconds": report.duration,
        }
        if report.failed:
            row["why"] = report.longreprtext
            row["logs"] = list(report.sections)
        elif report.skipped:
            row["why"] = (
                report.longrepr[-1] if isinstance(report.longrepr, tuple | list) else "xfail"
            )
        self._write(**row)

    def pytest_unconfigure(self) -> None:
        self._file.close()


def pytest_configure(config: pytest.Config) -> None:
    file = os.environ.pop(REPORT, None)  # a run that a test starts is none of this one
    if file:
        config.pluginmanager.register(Reporter(Path(file)), REPORTER)
