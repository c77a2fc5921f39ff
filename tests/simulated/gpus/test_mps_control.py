"""The simulated nvidia-cuda-mps-control works for an operator: program, files, logs."""

import contextlib
import os
import socket
import subprocess
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.devices.mps.processes import servers_of
from partitiond.simulated.gpus.mps_control import write_program
from partitiond.simulated.gpus.mps_state import (
    ClientRequest,
    MpsState,
    Server,
    effective,
    parse_client,
    parse_size,
    refusal,
)
from tests.machine import signal_all

GPU = "GPU-3c5a1b2d-0000-0000-0000-000000000001"


class Daemon:
    """A daemon in folders of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.program = write_program(folder / "bin" / "nvidia-cuda-mps-control")
        self.pipe_dir, self.log_dir = folder / "p", folder / "l"
        self.env = {
            **os.environ,
            "CUDA_MPS_PIPE_DIRECTORY": str(self.pipe_dir),
            "CUDA_MPS_LOG_DIRECTORY": str(self.log_dir),
            "CUDA_VISIBLE_DEVICES": GPU,
        }
        if options:
            self.run(*options)

    def run(self, *options: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, *options],
            input=stdin,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def ask(self, command: str) -> str:
        done = self.run(stdin=f"{command}\n")
        assert done.returncode == 0, done
        return done.stdout.strip()

    @property
    def pid(self) -> int:
        return int((self.pipe_dir / "nvidia-cuda-mps-control.pid").read_text())

    @contextlib.contextmanager
    def client(self, percentage: str = "-1", limit: int = -1) -> Iterator["socket.SocketIO"]:
        """A context of this very process."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self.pipe_dir / "control.sock"))
            connection.sendall(f"CLIENT {os.getpid()} {percentage} {limit} {GPU}\n".encode())
            with connection.makefile("rwb", buffering=0) as lines:
                yield lines


@pytest.fixture
def daemon(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    made = Daemon(tmp_path, "-d", *getattr(request, "param", ()))
    pid = made.pid
    yield made
    signal_all([pid, *(server.pid for server in servers_of(made.pipe_dir, None))])


def test_it_looks_as_the_real_one_does(daemon: Daemon) -> None:
    words = Path(f"/proc/{daemon.pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    assert words == [b"nvidia-cuda-mps-control", b"-d"]
    assert Path(f"/proc/{daemon.pid}/comm").read_text() == "nvidia-cuda-mps\n"
    log = (daemon.log_dir / "control.log").read_text()
    assert f"Starting control daemon using socket {daemon.pipe_dir}/control\n" in log
    assert f"set env CUDA_MPS_PIPE_DIRECTORY={daemon.pipe_dir}\n" in log
    again = daemon.run("-d")
    assert again.returncode == 1
    assert "already running" in again.stdout
    # A wrong command is an answer and no failure.
    assert "Unknown command" in daemon.ask("get_servers")
    assert "does not exist" in daemon.ask("get_client_list 1")
    assert "Usage" in daemon.ask("terminate_client 1")
    assert "Invalid" in daemon.ask("set_default_active_thread_percentage 120")
    assert "not enabled" in daemon.ask("lspart")
    assert daemon.run("--nonsense").returncode == 1
    deep = daemon.pipe_dir.parent / ("x" * 100)
    deep.mkdir()
    assert Daemon(deep).run("-d").returncode == 1, "its sockets' paths are too long"


def test_limits_are_kept_by_the_server_that_was_started_with_them(daemon: Daemon) -> None:
    assert daemon.ask("get_default_active_thread_percentage") == "100.0"
    assert daemon.ask("get_default_device_pinned_mem_limit 0") == ""
    assert daemon.ask("set_default_active_thread_percentage 40") == "40.0"
    daemon.ask("set_default_device_pinned_mem_limit 0 2G")
    with daemon.client("60", 3 << 30) as lines:
        admitted = lines.readline()
        server = daemon.ask("get_server_list")
        assert admitted == f"OK 40 {2 << 30} {server}\n".encode()
    daemon.ask("set_default_active_thread_percentage 90")
    daemon.ask(f"set_device_pinned_mem_limit {server} 0 900M")
    assert daemon.ask(f"get_device_pinned_mem_limit {server} 0") == "900M"
    with daemon.client() as lines:
        assert lines.readline() == f"OK 40 {900 << 20} {server}\n".encode(), "the next server's"
    daemon.ask(f"set_active_thread_percentage {server} 30")
    with daemon.client("20") as lines:
        assert lines.readline() == f"OK 20 {900 << 20} {server}\n".encode()
    assert daemon.ask(f"get_active_thread_percentage {server}") == "30.0"


@pytest.mark.parametrize("daemon", [("-S",)], indirect=True)
def test_static_partitions_are_made_of_free_chunks(daemon: Daemon) -> None:
    first = daemon.ask(f"sm_partition add {GPU} 6")
    assert first == f"{GPU}/1"
    assert daemon.ask(f"sm_partition add {GPU} 3") == "2 chunks are free"
    assert daemon.ask(f"sm_partition add {GPU} 1") == f"{GPU}/2"
    assert GPU in daemon.ask("lspart")
    assert daemon.ask(f"sm_partition rm {GPU} 1") == ""
    assert "does not exist" in daemon.ask(f"sm_partition rm {GPU} 1")
    assert daemon.ask(f"sm_partition add {GPU} 1") == first


def asked(device: str = GPU) -> ClientRequest:
    return ClientRequest(1, -1, -1, device)


def test_one_user_per_server_only_its_devices_and_limits_are_read_strictly() -> None:
    state = MpsState((GPU,))
    server = Server(7, 500, 70.0, {GPU: 5, "0": 9})
    assert refusal(state, server, asked(), 501) is None, "an idle server makes room"
    server.clients.append(object())  # type: ignore[arg-type]
    assert (refusal(state, server, asked(), 501) or "")[0] == 807
    client = types.SimpleNamespace(terminated=False)
    server.clients[:] = [client] * 47  # type: ignore[list-item]
    assert refusal(state, server, asked(), 500) is None
    server.clients.append(client)  # type: ignore[arg-type]
    assert (refusal(state, server, asked(), 500) or "")[0] == 808, "the 49th client"
    assert refusal(MpsState(()), None, asked("GPU-any"), 0) is None
    assert (refusal(state, None, asked("GPU-other"), 0) or "")[0] == 100
    for percentage in (-1, 0, 101):
        assert effective(server, ClientRequest(1, percentage, 7, GPU)) == (70.0, 7)
    for line in ("", "CLIENT", "CLIENT x -1 -1 g", "HELLO 1 2 3 4", "CLIENT 1 nan -1 g",
                 "CLIENT 1 2 3"):  # fmt: skip
        assert parse_client(line) is None, line
    sizes = {"10G": 10 << 30, "900M": 900 << 20, "900": None, "1.5G": None, "-1M": None}
    assert {word: parse_size(word) for word in sizes} == sizes
