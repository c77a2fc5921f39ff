"""The keeper answers what is a question, outlives what is none, and ends with its daemon."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from partitiond.devices.mps import keeper
from partitiond.devices.mps.processes import PID_FILE
from partitiond.platform.process_identity import start_ticks
from partitiond.simulated.gpus.mps_control import write_program
from tests.devices.mps.clients import scripted

LIST = {"version": 1, "commands": ["get_server_list"], "seconds": 20}


class Keeper:
    """A keeper in a folder of its own, and what it kept in its pipe and log folders."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.pipe, self.log = folder / "s/pipe", folder / "s/log"
        self.socket = folder / keeper.SOCKET
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, str(program)],
            env={
                "PATH": "/usr/bin:/bin",
                keeper.PIPE: str(self.pipe),
                keeper.LOG: str(self.log),
            },
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def said(self, sent: bytes) -> dict[str, Any]:
        """What it answers to these bytes, with the connection's end after them."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self.socket))
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
            answer: dict[str, Any] = json.loads(connection.makefile("rb").read())
        return answer

    def asked(self, question: object) -> dict[str, Any]:
        return self.said(json.dumps(question).encode() + b"\n")

    def answers(self) -> bool:
        try:
            return self.asked(LIST).get("status") == 0
        except OSError:
            return False


def until(true: Callable[[], object]) -> None:
    for _ in range(3000):
        if true():
            return
        time.sleep(0.02)
    raise AssertionError("it never came")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pd-") as short:
        yield Path(short)


@contextlib.contextmanager
def kept(folder: Path, program: Path) -> Iterator[Keeper]:
    made = Keeper(folder, program)
    try:
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(made.process.pid, signal.SIGKILL)
        made.process.communicate()


@pytest.fixture
def simulated(folder: Path) -> Iterator[Keeper]:
    with kept(folder, write_program(folder / "bin/nvidia-cuda-mps-control")) as made:
        until(made.answers)
        yield made


def test_commands_and_logs_are_answered_and_folders_are_its_own(simulated: Keeper) -> None:
    assert simulated.asked(LIST) == {"status": 0, "said": "", "complaints": ""}
    assert "Unknown command" in simulated.asked(LIST | {"commands": ["no_such"]})["said"]
    two = simulated.asked(LIST | {"commands": ["get_server_list", "no_such"]})
    assert "no_such" in two["said"]
    log = simulated.asked({"version": 1, "log": "control.log"})["said"]
    assert "Starting control daemon" in log
    assert simulated.asked({"version": 1, "log": "server.log"}) == {"said": ""}
    assert simulated.pipe.stat().st_mode & 0o777 == 0o700
    # A log that is no file is no log: the folder belongs to a user who may put there what he likes.
    os.mkfifo(simulated.log / "server.log")
    assert simulated.asked({"version": 1, "log": "server.log"}) == {"said": ""}
    (simulated.log / "server.log").unlink()
    (simulated.log / "server.log").symlink_to("/etc/passwd")
    assert simulated.asked({"version": 1, "log": "server.log"}) == {"said": ""}


ONE = b'{"version": 1, "commands": ["get_server_list"], "seconds": '
REFUSED = [
    (b"", "cut off"),
    (b'{"version": 1', "cut off"),
    (b"not json\n", "Expecting value"),
    (b"[]\n", "version"),
    (b'{"version": 2, "log": "server.log"}\n', "version"),
    (b'{"version": 1}\n', "commands"),
    (b'{"version": 1, "log": "../../../etc/shadow"}\n', "no such log"),
    (b'{"version": 1, "log": ["server.log"]}\n', "no such log"),
    (b'{"version": 1, "commands": "quit", "seconds": 1}\n', "commands"),
    (b'{"version": 1, "commands": ["a\\nquit"], "seconds": 1}\n', "lines of text"),
    (ONE + b"1e9}\n", "60 seconds"),
    (ONE + b'"1"}\n', "60 seconds"),
    (ONE + b"NaN}\n", "60 seconds"),
    (b"[" * 4000 + b"\n", ""),
    (b"x" * (keeper.MAX_QUESTION_BYTES + 1), "too long"),
    (b"\xff\xfe\n", "decode"),
]


def test_what_is_no_question_is_refused_and_harms_nothing(simulated: Keeper) -> None:
    for sent, why in REFUSED:
        assert why in simulated.said(sent)["refused"], sent[:60]
        with contextlib.suppress(ConnectionResetError):  # it reads no further
            simulated.said(sent * 100)
    assert simulated.answers()


def test_connections_that_say_nothing_do_not_keep_others_from_being_answered(
    simulated: Keeper,
) -> None:
    silent = [socket.socket(socket.AF_UNIX) for _ in range(keeper.MOST_QUESTIONS + 4)]
    try:
        for connection in silent:
            connection.connect(str(simulated.socket))
        assert simulated.answers(), "once the first have had their time"
    finally:
        for connection in silent:
            connection.close()


def test_a_program_that_hangs_is_ended_and_told(folder: Path) -> None:
    program = scripted(folder, "echo $$ >>asked; exec sleep 600")
    with kept(folder, program) as made:
        until(made.socket.exists)
        assert made.asked(LIST | {"seconds": 0.2}) == {"late": True}
        pid = int((folder / "asked").read_text().splitlines()[-1])
        until(lambda: start_ticks(pid) is None)
        assert made.process.poll() is None, "the daemon is kept"


def test_what_a_program_says_is_cut(folder: Path) -> None:
    program = scripted(
        folder, '[ $# = 1 ] && exec sleep 600; head -c 300000 /dev/zero | tr "\\0" "\\377"; exit 3'
    )
    with kept(folder, program) as made:
        until(made.socket.exists)
        answer = made.asked(LIST)
        assert (answer["status"], len(answer["said"])) == (3, keeper.MAX_SAID_BYTES)


def test_it_ends_with_its_daemon_and_says_why(simulated: Keeper) -> None:
    control = int((simulated.pipe / PID_FILE).read_text())
    os.kill(control, signal.SIGKILL)
    said, _ = simulated.process.communicate(timeout=60)
    assert simulated.process.returncode == 128 + signal.SIGKILL
    assert "Starting control daemon" in said


def test_a_quit_ends_both(simulated: Keeper) -> None:
    simulated.asked(LIST | {"commands": ["quit -t 5"]})
    said, _ = simulated.process.communicate(timeout=60)
    assert simulated.process.returncode == 0
    assert "Exit" in said


def test_a_daemon_that_does_not_come_up_ends_the_keeper(folder: Path) -> None:
    with kept(folder, scripted(folder, "echo 'no GPU here'; exit 7")) as made:
        said, _ = made.process.communicate(timeout=60)
        assert (made.process.returncode, said) == (7, "no GPU here\n")


def test_logs_of_the_last_daemon_are_kept_and_its_pipes_are_not(tmp_path: Path) -> None:
    pipe, log = tmp_path / "a/pipe", tmp_path / "a/log"
    keeper.make_folders(str(pipe), str(log))
    (pipe / "control").write_text("")
    (log / "control.log").write_text("one")
    keeper.make_folders(str(pipe), str(log))
    assert list(pipe.iterdir()) == []
    assert [path.name for path in log.iterdir()] == ["control.old"]
