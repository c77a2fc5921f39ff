"""Keeps the MPS control daemon of one GPU as another user: `python -I -S keeper.py PROGRAM`.

Standard library only. A control daemon serves, and obeys, only the user that it runs as. So this
program runs as the engines' user, in the sandbox that an engine would have (`engines.process`), and

- makes the daemon's pipe and log folders, which its environment names;
- starts PROGRAM in the foreground: what is in the sandbox ends with its first process, this one;
- answers at `engine.sock` in its working folder, where the supervisor links to: each question runs
  PROGRAM once, so that no question starts a unit of systemd;
- ends with the control daemon, after it has printed why that ended.

The daemon of partitiond asks, and believes no more than that the answer is text. One connection is
one question and one answer, each a line of JSON:

    {"version": 1, "commands": ["get_server_list"], "seconds": 10}
        {"status": 0, "said": "4428\\n", "complaints": ""}, or {"late": true}
    {"version": 1, "log": "server.log"}
        {"said": "the end of that log"}
    anything else
        {"refused": "why"}
"""

# pathlib would add half to the memory of a process that mostly waits.
# ruff: noqa: PTH103, PTH105, PTH118, PTH123, PTH208

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:  # what only type checkers need
    from typing import Any

VERSION = 1
"""Of what the daemon and the keeper say to each other."""
SOCKET = "engine.sock"
"""The name of every socket that a supervisor links to."""
PIPE, LOG = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
LOGS = ("server.log", "control.log")
MAX_QUESTION_BYTES = 4096
"""Questions are a line or two of the control program's."""
MAX_SAID_BYTES = 65_536
"""Of an answer or the end of a log: 48 clients make some 500 bytes."""
QUESTION_SECONDS = 5.0
"""Longest time for a question to arrive: it is sent as soon as the connection is made."""
MOST_SECONDS = 60.0
"""Longest time for an answer, whatever the question says."""
MOST_QUESTIONS = 8
"""Questions that are answered at the same time; the daemon asks one after the other."""
WHY_BYTES = 2048


def make_folders(pipe: str, log: str) -> None:
    """Make fresh pipe and log folders for this user alone; the last daemon's logs stay as *.old.

    Raises:
        OSError: the folders cannot be written.
    """
    shutil.rmtree(pipe, ignore_errors=True)
    for folder in (pipe, log):
        os.makedirs(folder, mode=0o700, exist_ok=True)
    for name in os.listdir(log):
        if name.endswith(".log"):
            path = os.path.join(log, name)
            os.replace(path, f"{path[:-4]}.old")


def tail(path: str, most: int = MAX_SAID_BYTES) -> str:
    """Return the end of a log; empty if there is none, or if what is there is no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return ""
    with contextlib.suppress(OSError), open(descriptor, "rb") as file:
        file.seek(max(0, os.fstat(descriptor).st_size - most))
        return file.read(most).decode(errors="replace")
    return ""


def question(connection: socket.socket) -> "dict[str, Any]":
    """Return one question. Raises ValueError: it is none; OSError: it does not come."""
    data = b""
    while not data.endswith(b"\n"):
        part = connection.recv(MAX_QUESTION_BYTES)
        data += part
        if not part or len(data) > MAX_QUESTION_BYTES:
            raise ValueError("the question is too long" if part else "the question is cut off")
    asked = json.loads(data)
    if not isinstance(asked, dict) or asked.get("version") != VERSION:
        raise ValueError(f"the question is not of version {VERSION}")
    return asked


def answered(program: str, log: str, asked: "dict[str, Any]") -> "dict[str, Any]":
    """Return the answer to a question. Raises ValueError: it is none; OSError: PROGRAM is gone."""
    name, commands, seconds = asked.get("log"), asked.get("commands"), asked.get("seconds")
    if name is not None:
        if name not in LOGS:
            raise ValueError("there is no such log")
        return {"said": tail(os.path.join(log, name))}
    if not isinstance(commands, list) or not all(
        isinstance(line, str) and line.isascii() and line.isprintable() for line in commands
    ):
        raise ValueError("commands are lines of text")
    if not isinstance(seconds, int | float) or not 0 < seconds <= MOST_SECONDS:
        raise ValueError(f"an answer takes up to {MOST_SECONDS:g} seconds")
    with subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            text = "".join(f"{line}\n" for line in commands).encode()
            said, complaints = process.communicate(text, seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return {"late": True}
    return {
        "status": process.returncode,
        "said": said[:MAX_SAID_BYTES].decode(errors="replace"),
        "complaints": complaints[:MAX_SAID_BYTES].decode(errors="replace"),
    }


def converse(connection: socket.socket, program: str, log: str) -> None:
    """Answer the one question of a connection."""
    with connection, contextlib.suppress(OSError):
        connection.settimeout(QUESTION_SECONDS)
        try:
            answer = answered(program, log, question(connection))
        except (ValueError, RecursionError, OSError) as error:
            answer = {"refused": str(error)[:200]}
        connection.sendall(json.dumps(answer).encode() + b"\n")


def serve(listener: socket.socket, program: str, log: str) -> None:
    """Answer questions, some at a time, for as long as the process lives."""
    free = threading.Semaphore(MOST_QUESTIONS)

    def answer(connection: socket.socket) -> None:
        try:
            converse(connection, program, log)
        finally:
            free.release()

    while True:
        free.acquire()  # further ones wait in the listener's queue
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def main() -> int:
    """Run the control daemon to its end, and answer meanwhile; return its exit status."""
    program, pipe, log = sys.argv[1], os.environ[PIPE], os.environ[LOG]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(SOCKET)
    listener.listen(128)
    os.umask(0o077)
    make_folders(pipe, log)
    control = subprocess.Popen([program, "-f"], stdin=subprocess.DEVNULL)
    threading.Thread(target=serve, args=(listener, program, log), daemon=True).start()
    status = control.wait()
    sys.stdout.write(tail(os.path.join(log, "control.log"), WHY_BYTES))
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
