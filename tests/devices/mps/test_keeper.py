"""The keeper answers what is a question, outlives what is none, and ends with its daemon."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from partitiond.devices.mps import keeper
from partitiond.devices.mps.processes import PID_FILE
from partitiond.simulated.gpus.mps_program import write_program
from tests.devices.mps.clients import scripted
from tests.engine_fixtures import short_dir
from tests.machine import wait_for

__all__ = ["short_dir"]

LIST = {"version": 1, "commands": ["get_server_list"], "seconds": 20}


def exchanged(connection: socket.socket, sent: bytes) -> dict[str, Any]:
    """What is answered to these bytes, with the connection's end after them."""
    connection.settimeout(60)
    connection.sendall(sent)
    connection.shutdown(socket.SHUT_WR)
    answer: dict[str, Any] = json.loads(connection.makefile("rb").read())
    return answer


class Keeper:
    """A keeper in a folder of its own, and what it kept in its pipe and log folders."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.pipe, self.log = folder / "s/pipe", folder / "s/log"
        self.socket = folder / keeper.SOCKET
        folders = {keeper.PIPE: str(self.pipe), keeper.LOG: str(self.log)}
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, str(program)],
            env={"PATH": "/usr/bin:/bin", **folders},
            cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def asked(self, question: object) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            return exchanged(connection, json.dumps(question).encode() + b"\n")

    def answers(self) -> bool:
        try:
            return self.asked(LIST).get("status") == 0
        except OSError:
            return False


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
def simulated(short_dir: Path) -> Iterator[Keeper]:
    with kept(short_dir, write_program(short_dir / "bin/nvidia-cuda-mps-control")) as made:
        wait_for("the keeper", made.answers)
        yield made


def test_commands_and_logs_are_answered_and_folders_are_its_own(simulated: Keeper) -> None:
    """Also while connections are open that say nothing, once the first have had their time."""
    silent = [socket.socket(socket.AF_UNIX) for _ in range(keeper.MOST_QUESTIONS + 4)]
    with contextlib.ExitStack() as stack:
        for connection in silent:
            stack.enter_context(connection).connect(str(simulated.socket))
        assert simulated.asked(LIST) == {"status": 0, "said": "", "complaints": ""}
    two = simulated.asked(LIST | {"commands": ["get_server_list", "no_such"]})
    assert "Unknown command" in two["said"]
    log = simulated.asked({"version": 1, "log": "control.log"})["said"]
    assert "Starting control daemon" in log
    assert simulated.pipe.stat().st_mode & 0o777 == 0o700


def test_a_log_that_is_no_file_is_no_log(tmp_path: Path) -> None:
    """Its folder belongs to a user who may put there what he likes."""
    log = tmp_path / "server.log"
    assert keeper.tail(str(log)) == ""
    os.mkfifo(log)
    assert keeper.tail(str(log)) == ""
    log.unlink()
    log.symlink_to("/etc/passwd")
    assert keeper.tail(str(log)) == ""


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
    (ONE + b"1}\n", "No such file"),
    (b"[" * 4000 + b"\n", ""),
    (b"x" * (keeper.MAX_QUESTION_BYTES + 1), "too long"),
    (b"\xff\xfe\n", "decode"),
]


def test_what_is_no_question_is_refused() -> None:
    for sent, why in REFUSED:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(sent)
            theirs.shutdown(socket.SHUT_WR)
            keeper.converse(ours, "/no/program", "/no/log")
            assert why in json.loads(theirs.makefile("rb").read())["refused"], sent[:60]


def test_a_program_that_hangs_is_ended_and_what_one_says_is_cut(tmp_path: Path) -> None:
    hangs = scripted(tmp_path, "exec sleep 600")
    assert keeper.answered(str(hangs), "/log", LIST | {"seconds": 0.2}) == {"late": True}
    says = scripted(tmp_path, 'head -c 300000 /dev/zero | tr "\\0" "\\377"; exit 3')
    answer = keeper.answered(str(says), "/log", LIST)
    assert (answer["status"], len(answer["said"])) == (3, keeper.MAX_SAID_BYTES)


@pytest.mark.parametrize(
    ("quits", "status", "why"),
    [(True, 0, "Exit"), (False, 128 + signal.SIGKILL, "Starting control daemon")],
)
def test_it_ends_with_its_daemon_and_says_why(
    simulated: Keeper, quits: bool, status: int, why: str
) -> None:
    if quits:
        with contextlib.suppress(OSError, ValueError):  # the end may be quicker than the answer
            simulated.asked(LIST | {"commands": ["quit -t 5"]})
    else:
        os.kill(int((simulated.pipe / PID_FILE).read_text()), signal.SIGKILL)
    said, _ = simulated.process.communicate(timeout=60)
    assert simulated.process.returncode == status
    assert why in said


def test_a_daemon_that_does_not_come_up_ends_the_keeper(short_dir: Path) -> None:
    with kept(short_dir, scripted(short_dir, "echo 'no GPU here'; exit 7")) as made:
        said, _ = made.process.communicate(timeout=60)
        assert (made.process.returncode, said) == (7, "no GPU here\n")
