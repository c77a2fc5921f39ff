"""The CUDA binding works on the simulated host, and on a real GPU if there is one."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from partitiond.core.errors import DeviceError
from partitiond.devices.cuda import Cuda, CudaError
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.simulated.gpus.processes import asked, end, holding, said, start

GIB = 1 << 30
MIB = 1 << 20


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    gpus = (GpuDescription("l4-24gb"), GpuDescription("a100-80gb", count=2))
    return SimulatedHost.create(HostDescription("cuda", gpus), tmp_path / "host")


NOTHING = ["error", "100"]


_LIST = """
import json, os, sys
from pathlib import Path
from partitiond.devices.cuda import Cuda, CudaError
for env in json.loads(sys.argv[2]):
    if os.fork() == 0:
        os.environ.update(env)
        try:
            print(*(device.uuid for device in Cuda(Path(sys.argv[1])).devices()), flush=True)
        except CudaError as error:
            print("error", error.cuda_code, flush=True)
        os._exit(0)
    os.wait()
"""


def visible(host: SimulatedHost, *devices: str | None) -> list[list[str]]:
    """UUIDs that processes with each of these in their environment see."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("CUDA_")}
    envs = [{} if one is None else {"CUDA_VISIBLE_DEVICES": one} for one in devices]
    command = [sys.executable, "-c", _LIST, str(host.cuda_path), json.dumps(envs)]
    done = subprocess.run(command, env=inherited, capture_output=True, text=True, timeout=300)
    return [line.split() for line in done.stdout.splitlines()]


def test_the_environment_says_which_devices_there_are(host: SimulatedHost) -> None:
    l4, first, second = host.uuids()
    nothing = ("", "-1", "nonsense", "MIG-12345")
    some = (f"{second},{l4}", f"{first},nonsense,{second}", None)
    assert visible(host, *some, *nothing) == [
        [second, l4],
        [first],  # ends there
        [l4, first, second],
        *[NOTHING] * len(nothing),
    ]


def test_mig_devices_are_shown_one_at_a_time_and_no_gpu_beside_them(tmp_path: Path) -> None:
    cut = ("3g.40gb@4", "1g.10gb@0")
    gpus = (
        GpuDescription("h100-80gb"),
        GpuDescription("a100-80gb", mig=True),
        GpuDescription("a100-80gb", mig=True, mig_instances=cut),
    )
    host = SimulatedHost.create(HostDescription("beside", gpus), tmp_path / "host")
    whole, empty, gpu = host.uuids()
    small, large = host.geometry(gpu)
    asked = (
        large.uuid, f"{small.uuid},{large.uuid}", empty, gpu, f"{whole},{large.uuid}", None
    )  # fmt: skip
    assert visible(host, *asked) == [
        [large.uuid],
        [small.uuid],
        NOTHING,  # in MIG mode
        NOTHING,
        [large.uuid],
        [whole],
    ]
    process = start(host, large.uuid, 2 * GIB)
    word, free, total, uuid = said(process)
    assert (word, uuid) == ("holds", large.uuid)
    assert int(total) == large.memory_bytes, "it has its own memory"
    assert int(total) - int(free) == host.used_bytes(large.uuid) > 2 * GIB
    end(process)
    process = start(host, large.uuid, 41 * GIB)
    assert said(process) == ["error", "2"]
    end(process)


def test_memory_is_taken_and_given_back(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = host.uuids()[1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpu)
    cuda = Cuda(host.cuda_path)
    (device,) = cuda.devices()
    assert (device.uuid, device.sm_count, device.name) == (gpu, 108, "NVIDIA A100-SXM4-80GB")
    assert cuda.version == 13000
    with cuda.retain(0) as context:
        free, total = context.memory()
        assert total == device.total_bytes
        address = context.allocate(3 * GIB + 1)  # in whole pieces of 2 MiB
        assert context.memory()[0] == free - 3 * GIB - 2 * MIB
        assert host.processes(gpu) == {os.getpid(): total - context.memory()[0]}
        context.free(address)
        assert context.memory() == (free, total)
        with pytest.raises(CudaError) as refused:
            context.free(address)
        assert refused.value.name == "CUDA_ERROR_INVALID_VALUE"
        with pytest.raises(CudaError) as full:
            context.allocate(total)
        assert full.value.cuda_code == 2
        assert full.value.hint
        context.synchronize()
        other = cuda.retain(0)  # two holders of one context are one
        host.fail("cuMemAlloc*", 2, after=1)
        context.allocate(GIB)
        with pytest.raises(CudaError):
            context.allocate(1)
        used = host.used_bytes(gpu)
    assert host.used_bytes(gpu) == used
    other.close()
    assert host.used_bytes(gpu) == 0
    context.close()  # once more is nothing
    with pytest.raises(CudaError):
        context.allocate(1)
    with pytest.raises(DeviceError, match=r"libcuda\.so\.1 cannot be loaded"):
        Cuda(host.folder / "none/libcuda.so.1")


def _start_cuda(path: Path, sender: "multiprocessing.connection.Connection") -> None:
    try:
        Cuda(path)
    except CudaError as error:
        sender.send(error.name)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_of_a_process_that_used_cuda_may_not(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", host.uuids()[1])
    Cuda(host.cuda_path)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(
        target=_start_cuda, args=(host.cuda_path, sender)
    )
    child.start()
    assert receiver.recv() == "CUDA_ERROR_NOT_INITIALIZED"
    child.join()


def test_one_process_at_a_time_where_the_compute_mode_says_so(host: SimulatedHost) -> None:
    gpu = host.uuids()[1]
    host.set_health(gpu, compute_mode=3)
    with holding(host, gpu):
        second = start(host, gpu)
        assert said(second) == ["error", "46"]
        end(second)
    host.set_health(gpu, compute_mode=2)
    third = start(host, gpu)
    assert said(third) == ["error", "46"]
    end(third)


class Daemon:
    """Answers one client as the stand-in for the MPS control daemon does."""

    def __init__(self, folder: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(str(folder / "control.sock"))
        self.socket.listen()
        self.env = {"CUDA_MPS_PIPE_DIRECTORY": str(folder)}

    def admit(self, host: SimulatedHost, answer: str, size: int = 0) -> list[str]:
        """Start a client that takes so much; return what the client said to the daemon."""
        self.process = start(host, host.uuids()[1], size, self.env)
        self.client, _ = self.socket.accept()
        with self.client.makefile("r") as lines:
            heard = lines.readline()
        self.say(answer)
        return heard.split()

    def say(self, text: str) -> None:
        self.client.sendall(text.encode())

    def end(self) -> None:
        end(self.process)
        self.client.close()


def test_an_mps_client_sees_its_share_as_the_device_and_ends_with_its_server(
    host: SimulatedHost, tmp_path: Path
) -> None:
    (tmp_path / "p").mkdir()
    daemon = Daemon(tmp_path / "p")
    daemon.env |= {
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "30",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=10G",
    }
    heard = daemon.admit(host, f"OK 30 {10 * GIB} 4711\n", 8 * GIB)
    assert said(daemon.process)[0] == "holds"
    assert heard == ["CLIENT", str(daemon.process.pid), "30", str(10 * GIB), host.uuids()[1]]
    assert asked(daemon.process) == ["well"]
    daemon.say("TERMINATE\n")
    assert asked(daemon.process) == ["error", "810"]
    daemon.end()
    for order, code in (("FAULT\n", "719"), ("", "806")):
        daemon.admit(host, "OK 100 -1 4711\n")
        assert said(daemon.process)[0] == "holds"
        if order:
            daemon.say(order)
        else:
            daemon.client.close()
        assert [asked(daemon.process) for _ in range(2)] == [["error", code]] * 2
        daemon.end()
    for answer, size, code in (
        (f"OK 100 {4 * GIB} 4711\n", 4 * GIB, "2"),  # a limit is a limit
        ("ERR 807 waits for its clients to end\n", 0, "807"),
    ):
        daemon.admit(host, answer, size)
        assert said(daemon.process) == ["error", code]
        daemon.end()
    daemon.socket.close()
    process = start(host, host.uuids()[1], 0, daemon.env)  # where its daemon is dead
    assert said(process) == ["error", "805"]
    end(process)


@pytest.mark.gpu
def test_the_real_driver_answers_the_same_calls() -> None:
    try:
        cuda = Cuda()
    except DeviceError as error:
        pytest.skip(f"no GPU: {error}")
    device = cuda.devices()[0]
    assert device.uuid.startswith(("GPU-", "MIG-"))
    assert device.sm_count > 0
    with cuda.retain(0) as context:
        free, total = context.memory()
        assert 0 < free <= total == device.total_bytes
        address = context.allocate(64 * MIB)
        assert context.memory()[0] < free
        context.free(address)
        context.synchronize()
