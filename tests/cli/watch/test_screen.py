"""`partitiond top` works in a pseudo-terminal, against a daemon's answers."""

import contextlib
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator

import pytest

from partitiond import serde
from tests.advise.servers import serving
from tests.cli.conftest import Cli
from tests.cli.overviews import events, overview
from tests.e2e.harness import WAIT_SECONDS, clean_environment, wait_for

RUN = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the terminal is its own, so that Ctrl-C is a signal
from partitiond.cli.main import main
main()
"""


@pytest.fixture
def url() -> Iterator[str]:
    """Answers the two routes that are asked."""
    seen = json.dumps(serde.to_jsonable(overview()))
    happened = json.dumps([serde.to_jsonable(event) for event in events(12)])
    with serving(lambda path: (200, happened if path.startswith("/events") else seen)) as address:
        yield address


class Terminal:
    """A screen of 100 columns and 40 lines, and a keyboard."""

    def __init__(self, url: str, *arguments: str) -> None:
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (40, 100))
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, "top", *arguments],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=clean_environment()
            | {"PARTITIOND_URL": url, "PARTITIOND_TOKEN": "t", "TERM": "xterm"},
            start_new_session=True,
        )

        self.text = ""
        self._seen = 0
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        """All that is written, as a terminal takes it: who writes to a full one waits."""
        while self.process.poll() is None:
            if select.select([self.master], [], [], 0.1)[0]:
                raw = os.read(self.master, 1 << 16).decode(errors="replace")
                self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw)

    def press(self, keys: str) -> None:
        self._seen = len(self.text)
        os.write(self.master, keys.encode())

    def until(self, *words: str) -> str:
        """Wait until all the words came since the last key."""
        wait_for(f"{words}", lambda: all(word in self.text[self._seen :] for word in words))
        return self.text[self._seen :]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        for descriptor in (self.master, self.slave):
            with contextlib.suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def terminal(url: str) -> Iterator[Terminal]:
    made = Terminal(url, "--sort", "name")
    yield made
    made.close()


def test_keys_work_in_a_terminal_and_leave_it_as_it_was(terminal: Terminal) -> None:
    terminal.until("partitiond 0.7", "Devices", "bee-1", "sorted by name")
    terminal.press("s")
    terminal.until("sorted by demand")
    terminal.press("/cow\r")
    text = terminal.until("only 'cow'", "unavailable")
    assert "bee-1" not in text.rpartition("only 'cow'")[0].rpartition("partitiond 0.7")[2]
    terminal.press("\x1b[B")  # an arrow; none of its letters is a key
    terminal.press("h")
    terminal.until("sort by the next")
    terminal.press("q")
    assert terminal.process.wait(WAIT_SECONDS) == 0
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_ctrl_c_ends_it_and_the_terminal_is_as_before(terminal: Terminal) -> None:
    terminal.until("sorted by name")
    terminal.press("\x03")
    terminal.process.wait(WAIT_SECONDS)
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_without_a_terminal_it_is_printed_once(
    cli: Cli, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("top").refused(5, "error:")
    cli("top --sort size").refused(2, "tokens")
    monkeypatch.setenv("PARTITIOND_URL", url)
    monkeypatch.setenv("PARTITIOND_TOKEN", "t")
    done = cli("top")
    assert (done.code, "bee-1" in done.out, "\x1b" in done.out) == (0, True, False)
    assert cli("top --json --find bee").json["models"][0]["name"] == "bee"
