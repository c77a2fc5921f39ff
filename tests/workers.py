"""Runs tests in several processes, forked once all are collected: `pytest --workers 4`.

So what tests import is imported and collected once, and its memory is shared. The first process
runs no test: it hands out one group of tests after the other (see `tests.order`) and hears what
became of each. What the session set up ends with the group: a fleet under load would run beside all
other tests. A test in which its process ends has failed; another process takes the rest of the
group. A run in which a test did not begin has failed.
"""

import atexit
import dataclasses
import gc
import multiprocessing
import os
import select
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

END: Final = "what a worker leaves"
"""The name of what ends each process as a test would."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--workers", type=int, default=0, help="processes that run the tests")
    parser.addoption(
        "--begin", type=int, help="a pipe: a byte of it begins the tests, its end none"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    options, config = session.config.option, session.config
    if options.begin is not None and not os.read(options.begin, 1):
        raise session.Interrupted("what the tests wait for could not be made")
    if not options.workers or options.collectonly or session.testsfailed or not session.items:
        return None
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for place, item in enumerate(session.items):
        groups[group_of(item.nodeid, config.rootpath)].append(place)
    folders: Any = config
    folders._tmp_path_factory.getbasetemp()  # each process has a folder in it
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
        channel: gives None for another group, the place of the test that begins, reports, and why
            the process ends before its time; takes groups.
        descriptor: of the process; its channel may be held open by what a test forked.
        group: what it runs, by places in the session.
        running: the test that began last.
        why: it ends.
    """

    pid: int
    channel: connection.Connection
    descriptor: int
    group: Sequence[int]
    running: int | None = None
    why: str = ""


class _Workers:
    """The processes of one run.

    Args:
        groups: the tests of each group, by their places in the session.
    """

    def __init__(self, session: pytest.Session, groups: list[list[int]]) -> None:
        self._session = session
        self._groups = iter(groups)
        self._running: list[_Worker] = []
        self._begun: set[int] = set()
        self._count = 0

    def run(self, count: int) -> None:
        """Run all tests in as many processes, or those before the run is to stop."""
        session = self._session
        try:
            for _, group in zip(range(count), self._groups, strict=False):
                self._start(group)
            while self._running and not self._stops():
                held: dict[Any, _Worker] = {w.channel: w for w in self._running}
                held |= {w.descriptor: w for w in self._running}
                for worker in {held[one] for one in connection.wait(held)}:
                    self._hear(worker)
        finally:
            for worker in self._running:
                worker.channel.close()  # it ends as it next writes
            for worker in self._running:
                os.waitpid(worker.pid, 0)
        if not self._stops():
            left = [i.nodeid for place, i in enumerate(session.items) if place not in self._begun]
            session.shouldfail = f"did not begin: {', '.join(left)}" if left else False

    def _stops(self) -> bool:
        return bool(self._session.shouldfail or self._session.shouldstop)

    def _hear(self, worker: _Worker) -> None:
        ended = bool(select.select([worker.descriptor], [], [], 0)[0])
        try:
            while not self._stops() and worker.channel.poll():
                self._take(worker, worker.channel.recv())
        except (EOFError, OSError):
            ended = True
        if ended and not self._stops():
            self._ended(worker)

    def _take(self, worker: _Worker, message: Any) -> None:
        if message is None:
            worker.running, worker.group = None, next(self._groups, ())
            worker.channel.send(worker.group)
        elif isinstance(message, int):
            worker.running = message
            self._begun.add(message)
        elif isinstance(message, str):
            worker.why = message
        else:
            config = self._session.config
            report = config.hook.pytest_report_from_serializable(config=config, data=message)
            config.hook.pytest_runtest_logreport(report=report)

    def _ended(self, worker: _Worker) -> None:
        self._running.remove(worker)
        worker.channel.close()
        os.close(worker.descriptor)
        _, status = os.waitpid(worker.pid, 0)
        if worker.running is None:
            return
        item = self._session.items[worker.running]
        why = f"its process ended with {os.waitstatus_to_exitcode(status)}\n{worker.why}"
        report = pytest.TestReport(
            item.nodeid, item.location, {}, outcome="failed", longrepr=why, when="call"
        )
        item.config.hook.pytest_runtest_logreport(report=report)
        self._start(worker.group[worker.group.index(worker.running) + 1 :])

    def _start(self, group: Sequence[int]) -> None:
        """Start a process, which runs this group before it takes another."""
        self._count += 1
        theirs, ours = multiprocessing.Pipe()
        pid = os.fork()
        if pid:
            theirs.close()
            self._running.append(_Worker(pid, ours, os.pidfd_open(pid), group))
            return
        status = 1
        try:
            for other in [ours, *(worker.channel for worker in self._running)]:
                other.close()
            _become_worker(self._session.config, theirs, self._count)
            self._work(theirs, group)
            atexit._run_exitfuncs()
            status = 0
        except (KeyboardInterrupt, BrokenPipeError, EOFError):
            pass  # the run is to stop
        except BaseException:  # noqa: BLE001 - the first process reports it
            theirs.send(traceback.format_exc())
        finally:
            os._exit(status)

    def _work(self, channel: connection.Connection, group: Sequence[int]) -> None:
        state = self._session._setupstate
        try:
            for places in _taken(channel, group):
                tests = [self._session.items[place] for place in places]
                for place, item, nextitem in zip(places, tests, [*tests[1:], None], strict=True):
                    channel.send(place)
                    item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
            end = _End.from_parent(self._session, name=END)
            end.config.hook.pytest_runtest_protocol(item=end, nextitem=None)
        finally:
            state.teardown_exact(None)


def _taken(channel: connection.Connection, group: Sequence[int]) -> Iterator[Sequence[int]]:
    while group:
        yield group
        channel.send(None)
        group = channel.recv()


class _Sender:
    """The plugin of a process that runs tests: it tells what became of each."""

    def __init__(self, config: pytest.Config, channel: connection.Connection) -> None:
        self._config = config
        self._channel = channel

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or not report.nodeid.endswith(END):
            hook, config = self._config.hook, self._config
            self._channel.send(hook.pytest_report_to_serializable(config=config, report=report))


class _End(pytest.Item):
    """What each process runs at last, with the limits and filters of a test."""

    def runtest(self) -> None:
        gc.collect()  # errors in what is left are errors here


def _become_worker(config: Any, channel: connection.Connection, number: int) -> None:
    """Take from a process that was forked what only one may have."""
    atexit._clear()
    plugins = config.pluginmanager
    if plugins.has_plugin(REPORTER):
        plugins.unregister(name=REPORTER)
    config.get_terminal_writer()._file = Path(os.devnull).open("w")  # noqa: SIM115
    plugins.register(_Sender(config, channel))
    if capture := plugins.getplugin("capturemanager"):  # its files would be those of all processes
        capture.stop_global_capturing()
        capture.start_global_capturing()
    folders = config._tmp_path_factory
    folders._given_basetemp = folders.getbasetemp() / f"w{number}"
    folders._basetemp = None
    # What a test starts by `multiprocessing` would import pytest anew, the main module here.
    sys.modules["__main__"] = types.ModuleType("__main__")
