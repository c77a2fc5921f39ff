"""The simulated nvidia-cuda-mps-control works for an operator: program, files, logs."""

import os
import subprocess
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.devices.mps.processes import servers_of
from partitiond.simulated.gpus.mps_program import write_program
from partitiond.simulated.gpus.mps_state import (
    ClientRequest,
    MpsState,
    Server,
    parse_client,
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


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path, "-d")
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
    assert "Invalid" in daemon.ask("get_client_list one")
    assert daemon.run("--nonsense").returncode == 1
    deep = daemon.pipe_dir.parent / ("x" * 100)
    deep.mkdir()
    assert Daemon(deep).run("-d").returncode == 1, "its sockets' paths are too long"


def asked(device: str = GPU) -> ClientRequest:
    return ClientRequest(1, -1, -1, device)


def test_one_user_per_server_only_its_devices_and_requests_are_read_strictly() -> None:
    state = MpsState((GPU,))
    server = Server(7, 500)
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
        asks = parse_client(f"CLIENT 1 {percentage} 7 {GPU}")
        assert asks == ClientRequest(1, 100.0, 7, GPU)
    for line in ("", "CLIENT", "CLIENT x -1 -1 g", "HELLO 1 2 3 4", "CLIENT 1 nan -1 g",
                 "CLIENT 1 2 3"):  # fmt: skip
        assert parse_client(line) is None, line
