"""The CUDA binding works on the simulated host, and on a real GPU if there is one."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pynvml
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


@pytest.fixture
def mig_host(tmp_path: Path) -> SimulatedHost:
    return SimulatedHost.create("a100-80gb-mig", tmp_path / "mig-host")


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


def visible(host: SimulatedHost, *devices: str | None, order: str = "") -> list[list[str]]:
    """UUIDs that processes with each of these in their environment see."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("CUDA_")}
    inherited |= {"CUDA_DEVICE_ORDER": order} if order else {}
    envs = [{} if one is None else {"CUDA_VISIBLE_DEVICES": one} for one in devices]
    command = [sys.executable, "-c", _LIST, str(host.cuda_path), json.dumps(envs)]
    done = subprocess.run(command, env=inherited, capture_output=True, text=True, timeout=300)
    return [line.split() for line in done.stdout.splitlines()]


NOTHING = ["error", "100"]


def test_the_environment_says_which_devices_there_are(host: SimulatedHost) -> None:
    l4, first, second = host.uuids()
    assert visible(host, None, "2,0", order="PCI_BUS_ID") == [[l4, first, second], [second, l4]]
    assert visible(host, f"{second},{l4}", first[:12], f"{first},nonsense,{second}", None) == [
        [second, l4],
        [first],
        [first],  # ends there
        [l4, first, second],  # the fastest first: compute capability 8.9 before 8.0
    ]
    nothing = ("", "-1", "7", "GPU-", "nonsense", f"{first},{first}", "MIG-12345")
    assert visible(host, *nothing) == [NOTHING] * len(nothing)


def test_mig_devices_are_shown_one_at_a_time(mig_host: SimulatedHost) -> None:
    gpu, empty = mig_host.uuids()[:2]
    small, *_, large = mig_host.geometry(gpu)
    with mig_host.installed():
        pynvml.nvmlInit()
        device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(
            pynvml.nvmlDeviceGetHandleByUUID(gpu), 0
        )
        first = pynvml.nvmlDeviceGetUUID(device)
        pynvml.nvmlShutdown()
    both = f"{small.uuid},{large.uuid}"
    assert visible(mig_host, large.uuid, both, empty, "1", None, gpu, "0") == [
        [large.uuid],
        [small.uuid],
        NOTHING,  # in MIG mode, without instances
        NOTHING,
        *[[first]] * 3,
    ]


def test_beside_a_mig_device_no_gpu_is_shown(tmp_path: Path) -> None:
    gpus = (
        GpuDescription("h100-80gb"),
        GpuDescription("a100-80gb", mig=True),
        GpuDescription("a100-80gb", mig=True, mig_instances=("3g.40gb@4",)),
    )
    host = SimulatedHost.create(HostDescription("beside", gpus), tmp_path / "host")
    whole, _, cut = host.uuids()
    (instance,) = host.geometry(cut)
    beside = (None, "0,2", f"{whole},{instance.uuid}")
    assert visible(host, *beside, order="PCI_BUS_ID") == [[instance.uuid]] * 3
    assert visible(host, whole) == [[whole]]
    host.set_mig_mode(cut, enabled=True)  # which takes its instances
    assert visible(host, None) == [[whole]]


def test_a_mig_device_has_its_own_memory(mig_host: SimulatedHost) -> None:
    instance = mig_host.geometry(mig_host.uuids()[0])[0]
    process = start(mig_host, instance.uuid, 2 * GIB)
    word, free, total, uuid = said(process)
    assert (word, uuid) == ("holds", instance.uuid)
    assert int(total) == instance.memory_bytes
    assert int(total) - int(free) == mig_host.used_bytes(instance.uuid) > 2 * GIB
    end(process)
    process = start(mig_host, instance.uuid, 21 * GIB)
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
    assert host.used_bytes(gpu) == 0
    context.close()  # once more is nothing
    with pytest.raises(CudaError):
        context.allocate(1)


def test_two_holders_of_one_context_are_one(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", host.uuids()[1])
    cuda = Cuda(host.cuda_path)
    one, two = cuda.retain(0), cuda.retain(0)
    one.allocate(GIB)
    used = host.used_bytes(host.uuids()[1])
    one.close()
    assert host.used_bytes(host.uuids()[1]) == used
    two.close()
    assert host.used_bytes(host.uuids()[1]) == 0


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


def test_a_library_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"libcuda\.so\.1 cannot be loaded"):
        Cuda(tmp_path / "libcuda.so.1")


class Daemon:
    """Answers one client as the stand-in for the MPS control daemon does."""

    def __init__(self, folder: Path, answer: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(str(folder / "control.sock"))
        self.socket.listen()
        self.heard = ""
        self._answer = answer
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self.client, _ = self.socket.accept()
        with self.client.makefile("r") as lines:
            self.heard = lines.readline()
        self.client.sendall(self._answer.encode())

    def say(self, text: str) -> None:
        self._thread.join()
        self.client.sendall(text.encode())

    def close(self) -> None:
        self._thread.join()
        self.client.close()
        self.socket.close()


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    folder = tmp_path / "p"
    folder.mkdir()
    return folder


def mps_env(pipe: Path, **more: str) -> dict[str, str]:
    return {"CUDA_MPS_PIPE_DIRECTORY": str(pipe), **more}


def test_an_mps_client_sees_its_share_as_the_device(host: SimulatedHost, pipe: Path) -> None:
    gpu = host.uuids()[1]
    daemon = Daemon(pipe, f"OK 30 {10 * GIB} 4711\n")
    env = mps_env(
        pipe,
        CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="30",
        CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="0=10G",
    )
    with holding(host, gpu, 8 * GIB, env) as process:
        assert daemon.heard.split() == [
            "CLIENT", str(process.pid), "30", str(10 * GIB), gpu,
        ]  # fmt: skip
        assert asked(process) == ["well"]
        daemon.say("TERMINATE\n")
        assert asked(process) == ["error", "810"]
    daemon.close()


def test_an_mps_limit_is_a_limit(host: SimulatedHost, pipe: Path) -> None:
    daemon = Daemon(pipe, f"OK 100 {4 * GIB} 4711\n")
    process = start(host, host.uuids()[1], 4 * GIB, mps_env(pipe))
    assert said(process) == ["error", "2"]
    daemon.close()
    end(process)


@pytest.mark.parametrize(("order", "code"), [("FAULT\n", "719"), ("", "806")])
def test_what_happens_to_the_server_happens_to_its_clients(
    host: SimulatedHost, pipe: Path, order: str, code: str
) -> None:
    daemon = Daemon(pipe, "OK 100 -1 4711\n")
    with holding(host, host.uuids()[1], 0, mps_env(pipe)) as process:
        if order:
            daemon.say(order)
        else:
            daemon.close()
        assert asked(process) == ["error", code]
        assert asked(process) == ["error", code]
    daemon.close()


def test_a_daemon_that_refuses_is_heard(host: SimulatedHost, pipe: Path) -> None:
    daemon = Daemon(pipe, "ERR 807 waits for its clients to end\n")
    process = start(host, host.uuids()[1], 0, mps_env(pipe))
    assert said(process) == ["error", "807"]
    daemon.close()
    end(process)


def test_where_its_daemon_is_dead_no_client_starts(host: SimulatedHost, pipe: Path) -> None:
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stale.bind(str(pipe / "control.sock"))
    stale.close()
    process = start(host, host.uuids()[1], 0, mps_env(pipe))
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


def test_calls_fail_as_asked(host: SimulatedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", host.uuids()[1])
    host.fail("cuMemAlloc*", 2, after=1)
    with Cuda(host.cuda_path).retain(0) as context:
        context.allocate(1)
        with pytest.raises(CudaError):
            context.allocate(1)
        context.allocate(1)
