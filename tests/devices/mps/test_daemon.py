"""The control daemon of one GPU is started, found again, queried, faulted and ended."""

import asyncio
import dataclasses
import os
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from partitiond.core.errors import DeviceError, SilentError
from partitiond.devices.mps import MpsControl, MpsDaemon, StartPlace
from partitiond.devices.mps import record as records
from partitiond.devices.mps.processes import PROC, MpsProcess
from partitiond.engines.process.kept_programs import KeptPrograms
from partitiond.engines.process.scope import EngineCgroups
from partitiond.platform.process_identity import start_ticks
from partitiond.simulated.gpus.mps_control import write_program
from tests.devices.mps.clients import client
from tests.engines.process.test_sandbox import Launcher
from tests.machine import signal_all

GPU = "GPU-3c5a1b2d-0000-0000-0000-000000000001"
OTHER = "GPU-77aa1b2d-0000-0000-0000-000000000002"


@pytest.fixture
def program(tmp_path: Path) -> str:
    return str(write_program(tmp_path / "bin" / "nvidia-cuda-mps-control"))


def control_in(folder: Path, program: str, launcher: Path | None = None) -> MpsControl:
    keepers = KeptPrograms(launcher, EngineCgroups("none"))
    return MpsControl(folder / "r", program, check_seconds=0.0, keepers=keepers)


@pytest.fixture(params=["ours", "another"])
def launcher(request: pytest.FixtureRequest) -> Iterator[Path | None]:
    """Where daemons are started as the user of engines; here the same user, so that tests can look
    at its processes."""
    if request.param == "ours":
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="pd-") as folder:
        made = Launcher(Path(folder))
        yield made.path
        made.close()


@pytest.fixture
async def control(tmp_path: Path, program: str, launcher: Path | None) -> AsyncIterator[MpsControl]:
    """Of a host whose daemons are all gone after the test."""
    control = control_in(tmp_path, program, launcher)
    yield control
    for daemon in control_in(tmp_path, program, launcher).recorded():
        signal_all(daemon.pids())


async def eventually(ask: Callable[[], Awaitable[object]]) -> None:
    """Wait until something becomes true."""
    async with asyncio.timeout(60):
        while not await ask():  # noqa: ASYNC110 - other processes set no event of ours
            await asyncio.sleep(0.02)


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def env_of(daemon: MpsDaemon, percent: int = 50) -> dict[str, str]:
    return dict(daemon.client_env(percent, 0))


async def test_it_runs_for_its_gpu_alone_and_leaves_nothing(control: MpsControl) -> None:
    daemon = control.daemon(GPU)
    assert not daemon.alive()
    await daemon.ensure()
    assert daemon.alive()
    assert len(daemon.pids()) == 1, "no server before the first client"
    assert daemon.pipe_dir.parts[-2:] == ("3c5a1b2d", "pipe")
    assert daemon.pipe_dir.stat().st_mode & 0o077 == 0, "ours alone"
    async with client(env_of(daemon), OTHER) as stranger:
        assert (await stranger.line()).startswith("ERR 100 ")
    async with client(env_of(daemon), GPU) as engine:
        assert (await engine.line()).startswith("OK 50 -1 ")
        assert control.pids() == set(daemon.pids())
        assert len(daemon.pids()) == 2
    pids, log_dir = daemon.pids(), daemon.log_dir
    await eventually(lambda: _empty(daemon))
    await daemon.quit()
    assert not daemon.alive()
    assert all(start_ticks(pid) is None for pid in pids)
    assert not daemon.pipe_dir.exists()
    assert "Exit" in (log_dir / "control.log").read_text(), "logs say why it ended"
    await daemon.quit()


async def _empty(daemon: MpsDaemon) -> bool:
    return not await daemon.clients()


async def test_a_second_ensure_keeps_it_and_daemons_are_apart(control: MpsControl) -> None:
    one, two = control.daemon(GPU), control.daemon(OTHER)
    await asyncio.gather(one.ensure(), one.ensure(), two.ensure())
    before = one.pids()
    await one.ensure()
    assert one.pids() == before
    assert set(one.pids()).isdisjoint(two.pids())
    assert {daemon.uuid for daemon in control.running()} == {GPU, OTHER}
    await one.quit()
    assert [daemon.uuid for daemon in control.running()] == [OTHER]
    assert two.alive()


async def test_it_is_found_again_after_a_restart_of_ours(
    control: MpsControl, tmp_path: Path, program: str, launcher: Path | None
) -> None:
    daemon = control.daemon(GPU)
    await daemon.ensure()
    async with client(env_of(daemon), GPU) as engine:
        await engine.line()
        (again,) = control_in(tmp_path, program, launcher).running()
        assert again.uuid == GPU
        assert again.pids() == daemon.pids()
        assert [found.pid for found in await again.clients()] == [engine.pid]


async def test_a_start_cut_short_is_found_by_its_folder(
    control: MpsControl, tmp_path: Path, program: str, launcher: Path | None
) -> None:
    daemon = control.daemon(GPU)
    await daemon.ensure()
    known = records.read(daemon.folder)
    assert known is not None
    assert known.process is not None
    records.write(daemon.folder, dataclasses.replace(known, process=None))
    (again,) = control_in(tmp_path, program, launcher).running()
    assert again.pids() == daemon.pids()
    await again.ensure()
    assert records.read(daemon.folder) == known, "completed"
    await again.quit()
    assert not daemon.alive()


async def test_a_pid_that_was_handed_out_again_is_not_taken_for_it(control: MpsControl) -> None:
    daemon = control.daemon(GPU)
    await daemon.ensure()
    known = records.read(daemon.folder)
    assert known is not None
    assert known.process is not None
    await daemon.quit()
    records.make(daemon.folder)
    ours = type(known.process)(os.getpid(), known.process.start_ticks, known.process.boot_id)
    records.write(daemon.folder, records.MpsRecord(GPU, ours))
    assert not daemon.alive()
    assert daemon.pids() == ()
    await daemon.quit()
    assert records.read(daemon.folder) is None


async def test_only_its_own_clients_are_ended(control: MpsControl) -> None:
    daemon = control.daemon(GPU)
    await daemon.ensure()
    async with client(env_of(daemon), GPU) as one, client(env_of(daemon), GPU) as two:
        assert (await one.line()).startswith("OK")
        assert (await two.line()).startswith("OK")
        assert await daemon.room() == 46
        assert await daemon.terminate([one.pid, os.getpid()]) == (one.pid,)
        assert await one.line() == "TERMINATE"
        assert one.process.returncode is None, "its process is left alone"
        assert [found.pid for found in await daemon.clients()] == [two.pid]
        assert await daemon.terminate([one.pid]) == ()
        assert await daemon.fault() == ""


async def test_a_client_that_cannot_be_ended_is_told(control: MpsControl) -> None:
    daemon = control.daemon(GPU)
    await daemon.ensure()
    await daemon.ask("simulate_refuse_terminate CUDA_ERROR_NOT_PERMITTED")
    async with client(env_of(daemon), GPU) as engine:
        await engine.line()
        with pytest.raises(DeviceError, match="NOT_PERMITTED") as raised:
            await daemon.terminate([engine.pid])
        assert raised.value.facts["refused"] == {engine.pid: "CUDA_ERROR_NOT_PERMITTED"}


async def test_a_fault_lasts_until_every_client_is_gone(control: MpsControl) -> None:
    daemon = control.daemon(GPU)
    await daemon.ensure()
    assert await daemon.fault() == ""
    async with client(env_of(daemon), GPU) as one, client(env_of(daemon), GPU) as two:
        await one.line()
        await two.line()
        await daemon.ask("simulate_fault")
        assert await one.line() == "FAULT"
        assert await two.line() == "FAULT"
        reason = await daemon.fault()
        assert GPU in reason
        assert "all 2 clients" in reason
        assert "fatal GPU exception" in reason, "what the log says"
        await one.kill()
        assert await daemon.fault()
        async with client(env_of(daemon), GPU) as early:
            assert (await early.line()).startswith("ERR 807 ")
    await eventually(lambda: _well(daemon))
    async with client(env_of(daemon), GPU) as later:
        assert (await later.line()).startswith("OK")
        assert await daemon.fault() == ""


async def _well(daemon: MpsDaemon) -> bool:
    return not await daemon.fault()


async def test_a_client_killed_unasked_breaks_its_neighbours_and_one_ended_first_does_not(
    control: MpsControl,
) -> None:
    daemon = control.daemon(GPU)
    await daemon.ensure()
    await daemon.ask("simulate_kill_faults 1")
    async with client(env_of(daemon), GPU) as neighbour:
        await neighbour.line()
        async with client(env_of(daemon), GPU) as polite:
            await polite.line()
            await daemon.terminate([polite.pid])
            await polite.kill()
        assert await daemon.fault() == ""
        async with client(env_of(daemon), GPU) as rude:
            await rude.line()
            await rude.kill()
        assert await neighbour.line() == "FAULT"
        assert await daemon.fault()


async def test_a_server_that_dies_breaks_its_clients_until_they_are_gone(
    control: MpsControl,
) -> None:
    daemon = control.daemon(GPU)
    await daemon.ensure()
    async with client(env_of(daemon), GPU) as engine:
        await engine.line()
        assert await daemon.fault() == ""
        (server,) = daemon.servers()
        os.kill(server.pid, signal.SIGKILL)
        assert await engine.line() == "FAULT"
        reason = await daemon.fault()
        assert "ended under its clients" in reason
        assert str(engine.pid) in reason
    await eventually(lambda: _well(daemon))


async def test_a_proc_that_does_not_answer_is_left_behind(
    control: MpsControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, answers = control.daemon(GPU), threading.Event()
    await daemon.ensure()
    servers = daemon.servers

    def hangs() -> tuple[MpsProcess, ...]:
        answers.wait()
        return servers()

    with monkeypatch.context() as change:
        change.setattr(PROC, "seconds", 0.05)
        change.setattr(daemon, "servers", hangs)
        with pytest.raises(SilentError, match="MPS servers"):
            await daemon._look_for_fault()
        before = threading.active_count()
        with pytest.raises(SilentError):
            await daemon._look_for_fault()
        assert threading.active_count() <= before, "no second thread waits for it"
        answers.set()
    assert await daemon._look_for_fault() == ""


async def test_a_daemon_that_dies_is_a_fault_until_it_is_started_anew(
    control: MpsControl, launcher: Path | None
) -> None:
    daemon = control.daemon(GPU)
    await daemon.ensure()
    async with client(env_of(daemon), GPU) as engine:
        await engine.line()
        assert await daemon.fault() == ""
        control_pid, server_pid = daemon.pids()
        os.kill(engine.pid, signal.SIGSTOP)  # as an engine that computes, and has not noticed
        os.kill(control_pid, signal.SIGKILL)
        await eventually(lambda: _dead(control_pid))
        await eventually(lambda: _ended(daemon))
        left = () if launcher else (server_pid,)
        assert daemon.pids() == left, "what it left is still ours; a keeper leaves nothing"
        assert "ended" in await daemon.fault()
    await daemon.ensure()
    assert await daemon.fault() == ""
    assert start_ticks(server_pid) is None, "no server of the dead one is left"
    async with client(env_of(daemon), GPU) as engine:
        assert (await engine.line()).startswith("OK")


async def _dead(pid: int) -> bool:
    return start_ticks(pid) is None


async def _ended(daemon: MpsDaemon) -> bool:
    return not daemon.alive()


async def test_one_in_use_is_not_ended(control: MpsControl) -> None:
    daemon = control.daemon(GPU)
    await daemon.ensure()
    async with client(env_of(daemon), GPU) as engine:
        await engine.line()
        with pytest.raises(DeviceError, match="in use") as raised:
            await daemon.quit()
        assert raised.value.facts["clients"] == [engine.pid]
        assert daemon.alive()


async def test_its_limits_reach_the_client(control: MpsControl) -> None:
    daemon = control.daemon(GPU)
    await daemon.ensure()
    await daemon.ask("set_default_active_thread_percentage 40")
    async with client(env_of(daemon, 90), GPU) as engine:
        assert (await engine.line()).startswith("OK 40 "), "a client can only tighten it"
    async with client(env_of(daemon, 30), GPU, limit="1048576") as engine:
        assert (await engine.line()).startswith("OK 30 1048576 ")


async def test_the_49th_client_is_turned_away(control: MpsControl) -> None:
    daemon = control.daemon(GPU)
    await daemon.ensure()
    connections = []
    try:
        for number in range(49):
            reader, writer = await asyncio.open_unix_connection(daemon.pipe_dir / "control.sock")
            connections.append(writer)
            writer.write(f"CLIENT {os.getpid()} -1 -1 {GPU}\n".encode())
            answer = (await reader.readline()).decode()
            assert answer.startswith("OK" if number < 48 else "ERR 808 ")
        await daemon.ask("get_server_list")
    finally:
        for writer in connections:
            writer.close()
            await writer.wait_closed()


async def test_one_that_hangs_is_told_and_can_be_ended(
    control: MpsControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partitiond.devices.mps.lifecycle.QUIT_SECONDS", 0.5)
    monkeypatch.setattr("partitiond.devices.mps.lifecycle.GONE_SECONDS", 0.1)
    daemon = control.daemon(GPU)
    await daemon.ensure()
    (pid,) = daemon.pids()
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(DeviceError, match="did not answer") as raised:
        await daemon.ask("get_server_list", seconds=0.3)
    assert raised.value.hint
    os.kill(pid, signal.SIGCONT)
    await daemon.ask("simulate_hang 60")
    monkeypatch.setattr("partitiond.devices.mps.queries.ASK_SECONDS", 0.5)
    await daemon.quit()
    assert start_ticks(pid) is None


async def test_a_driver_that_knows_no_time_for_quit_is_asked_plainly(
    tmp_path: Path, program: str
) -> None:
    older = tmp_path / "older"
    older.write_text(f"#!/bin/sh\nsed 's/quit -t/nothing/' | {program} \"$@\"\n")
    older.chmod(0o755)
    control = control_in(tmp_path, str(older))
    daemon = control.daemon(GPU)
    await daemon.ensure()
    (pid,) = daemon.pids()
    await daemon.quit()
    assert start_ticks(pid) is None
    log = (daemon.log_dir / "control.log").read_text().splitlines()
    assert any(line.endswith("Cmd:quit") for line in log)
    assert "Exit" in log[-2] + log[-1], "it ended by itself"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 3", "status 3"),
        ("echo 'Failed to start: no GPU here'; exit 1", "no GPU here"),
        ("exit 0", "did not start"),
    ],
)
async def test_one_that_does_not_come_up_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    monkeypatch.setattr("partitiond.devices.mps.lifecycle.START_SECONDS", 0.5)
    program = tmp_path / "nvidia-cuda-mps-control"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    daemon = control_in(tmp_path, str(program)).daemon(GPU)
    with pytest.raises(DeviceError, match=words) as raised:
        await daemon.ensure()
    assert raised.value.hint
    assert records.read(daemon.folder) is None
    assert not daemon.pipe_dir.exists()


async def test_without_the_program_it_says_what_to_install(tmp_path: Path) -> None:
    control = control_in(tmp_path, "/no/such/nvidia-cuda-mps-control")
    assert "nvidia-compute-utils" in control.unavailable()
    with pytest.raises(DeviceError, match="not installed") as raised:
        await control.daemon(GPU).ensure()
    assert "gpu.mps_control" in raised.value.hint


async def test_what_it_inherits_of_mps_is_left_out(
    control: MpsControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "10")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    daemon = control.daemon(GPU)
    await daemon.ensure()
    (pid,) = daemon.pids()
    environment = environment_of(pid)
    assert b"PERCENTAGE" not in environment
    assert f"CUDA_VISIBLE_DEVICES={GPU}".encode() in environment
    assert b"CUDA_MPS_PROTOCOL_VERSION=2" in environment


async def test_it_is_started_where_it_outlives_us(tmp_path: Path, program: str) -> None:
    asked = []

    async def place(name: str) -> StartPlace:
        asked.append(name)
        return StartPlace(("/usr/bin/env", f"PLACE={len(asked)}"), (("MANAGER", "here"),))

    control = MpsControl(tmp_path / "r", program, place=place)
    daemon = control.daemon(GPU)
    try:
        for number in (1, 2):
            await daemon.ensure()
            await daemon.ensure()
            words = environment_of(daemon.pids()[0]).split(b"\0")
            assert f"PLACE={number}".encode() in words
            assert b"MANAGER=here" in words
            await daemon.quit()
    finally:
        await daemon.quit()
    assert asked == ["mps-3c5a1b2d"] * 2, "a scope's name is used once"


async def test_no_place_to_start_is_told_and_nothing_is_started(
    tmp_path: Path, program: str
) -> None:
    async def nowhere(_name: str) -> StartPlace:
        raise DeviceError("there is no scope.")

    daemon = MpsControl(tmp_path / "r", program, place=nowhere).daemon(GPU)
    with pytest.raises(DeviceError, match="no scope"):
        await daemon.ensure()
    assert not daemon.alive()


async def test_quitting_one_that_never_was_or_died_ends_what_is_left(control: MpsControl) -> None:
    daemon = control.daemon(GPU)
    await daemon.quit()
    await daemon.ensure()
    async with client(env_of(daemon), GPU) as engine:
        await engine.line()
        control_pid, server = daemon.pids()
        os.kill(control_pid, signal.SIGKILL)
        await eventually(lambda: _dead(control_pid))
        assert [left.uuid for left in control.recorded()] == [GPU]
    await daemon.quit()
    assert start_ticks(server) is None
    assert control.recorded() == []
