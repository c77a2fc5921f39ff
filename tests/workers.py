"""Runs tests in several processes, forked once all are collected: `pytest --workers 4`.

So what tests import is imported and collected once, and its memory is shared. Each process takes
one group of tests after the other (see `tests.order`) and tells the first one, which runs no test,
what became of each. A test in which its process ends has failed; another process goes on.
"""

import dataclasses
import multiprocessing
import os
import signal
import sys
import traceback
import types
from collections import defaultdict
from collections.abc import Iterator, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, Final

import pytest

from tests.order import group_of
from tests.reported import REPORTER

_NUMBER_BYTES: Final = 4


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--workers", type=int, default=0, dest="workers", help="processes that run tests"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    options = session.config.option
    if not options.workers or options.collectonly or session.testsfailed or not session.items:
        return None
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for place, item in enumerate(session.items):
        groups[group_of(item.nodeid, session.config.rootpath)].append(place)
    config: Any = session.config
    config._tmp_path_factory.getbasetemp()
    _Workers(session, list(groups.values())).run(options.workers)
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
    return True


@dataclasses.dataclass(eq=False)
class _Worker:
    """What the first process knows of another.

    Attributes:
        reports: the end of a pipe that gives the test that begins, then a report of each phase.
        running: the test that began last, by its place in the session.
    """

    pid: int
    reports: connection.Connection
    running: int | None = None


class _Workers:
    """The processes of one run.

    Args:
        groups: the tests of each group, by their places in the session.
    """

    def __init__(self, session: pytest.Session, groups: Sequence[Sequence[int]]) -> None:
        self._session = session
        self._groups = groups
        self._running: list[_Worker] = []
        self._count = 0
        # Whoever is free reads the number of the next group.
        self._numbers, ours = os.pipe()
        os.write(ours, b"".join(n.to_bytes(_NUMBER_BYTES, "big") for n in range(len(groups))))
        os.close(ours)

    def run(self, count: int) -> None:
        """Run all tests in as many processes, or those before the run is to stop."""
        try:
            for _ in range(min(count, len(self._groups))):
                self._start(())
            while self._running and not (self._session.shouldfail or self._session.shouldstop):
                ready = connection.wait([worker.reports for worker in self._running])
                for worker in [w for w in self._running if w.reports in ready]:
                    self._hear(worker)
        finally:
            for worker in self._running:
                worker.reports.close()  # who writes to it ends, too
                os.kill(worker.pid, signal.SIGINT)
            for worker in self._running:
                os.waitpid(worker.pid, 0)
            os.close(self._numbers)

    def _hear(self, worker: _Worker) -> None:
        hook = self._session.config.hook
        try:
            message = worker.reports.recv()
        except EOFError:
            self._ended(worker)
            return
        if isinstance(message, int | None):
            worker.running = message
            return
        report = hook.pytest_report_from_serializable(config=self._session.config, data=message)
        hook.pytest_runtest_logreport(report=report)

    def _ended(self, worker: _Worker) -> None:
        self._running.remove(worker)
        worker.reports.close()
        _, status = os.waitpid(worker.pid, 0)
        if worker.running is None:
            return
        item = self._session.items[worker.running]
        why = f"the process of the tests ended with {os.waitstatus_to_exitcode(status)}"
        report = pytest.TestReport(
            item.nodeid, item.location, {}, outcome="failed", longrepr=why, when="call"
        )
        item.config.hook.pytest_runtest_logreport(report=report)
        group = next(group for group in self._groups if worker.running in group)
        self._start(group[group.index(worker.running) + 1 :])

    def _start(self, first: Sequence[int]) -> None:
        """Start a process, which runs these tests before it takes a group."""
        self._count += 1
        theirs, ours = multiprocessing.Pipe(duplex=False)
        pid = os.fork()
        if pid:
            ours.close()
            self._running.append(_Worker(pid, theirs))
            return
        status = 1
        try:
            theirs.close()
            _become_worker(self._session.config, ours, self._count)
            self._work(ours, first)
            status = 0
        except (KeyboardInterrupt, BrokenPipeError):
            pass  # the run is to stop
        except BaseException:  # noqa: BLE001 - the first process says in which test
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(status)

    def _work(self, reports: connection.Connection, first: Sequence[int]) -> None:
        state = self._session._setupstate
        try:
            for group in self._taken(first):
                tests = [self._session.items[place] for place in group]
                following: list[Any] = [*tests[1:], _AnotherGroup(self._session)]
                for place, item, nextitem in zip(group, tests, following, strict=bool(group)):
                    reports.send(place)
                    item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
        finally:
            state.teardown_exact(None)
        reports.send(None)

    def _taken(self, first: Sequence[int]) -> Iterator[Sequence[int]]:
        yield first
        while number := os.read(self._numbers, _NUMBER_BYTES):
            yield self._groups[int.from_bytes(number, "big")]


class _Sender:
    """The plugin of a process that runs tests: it tells what became of each."""

    def __init__(self, config: pytest.Config, reports: connection.Connection) -> None:
        self._config = config
        self._reports = reports

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        hook = self._config.hook
        self._reports.send(hook.pytest_report_to_serializable(config=self._config, report=report))


class _AnotherGroup:
    """What follows the last test of a group: what the session set up stays for it, and no more."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session

    def listchain(self) -> list[pytest.Session]:
        """As of a test: the nodes that it lies in."""
        return [self._session]


def _become_worker(config: Any, reports: connection.Connection, number: int) -> None:
    """Take from a process that was forked what only one may have."""
    plugins = config.pluginmanager
    if plugins.has_plugin(REPORTER):
        plugins.unregister(name=REPORTER)
    config.get_terminal_writer()._file = Path(os.devnull).open("w")  # noqa: SIM115
    plugins.register(_Sender(config, reports))
    capture = plugins.getplugin("capturemanager")  # its files would be those of all processes
    capture.stop_global_capturing()
    capture.start_global_capturing()
    folders = config._tmp_path_factory
    folders._given_basetemp = folders.getbasetemp() / f"w{number}"
    folders._basetemp = None
    # What a test starts by `multiprocessing` would import pytest anew, the main module here.
    sys.modules["__main__"] = types.ModuleType("__main__")
