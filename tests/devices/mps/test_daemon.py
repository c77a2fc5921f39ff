"""The control daemon of one GPU is started, found again, queried, faulted and ended.

What NVIDIA's own does, too, is in `tests/contract/test_mps_contract.py`.
"""

import asyncio
import dataclasses
import os
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from partitiond.core.errors import DeviceError, SilentError
from partitiond.devices.mps import MpsControl, MpsDaemon, lifecycle, queries
from partitiond.devices.mps import daemon as daemons
from partitiond.devices.mps import record as records
from partitiond.devices.mps.processes import PROC, MpsProcess
from partitiond.platform.process_identity import start_ticks
from tests.devices.mps import clients
from tests.devices.mps.clients import GPU, OTHER, control_in, engine_of, environment_of
from tests.engines.process.scripts import Launcher
from tests.machine import signal_all, until


@pytest.fixture
async def control(tmp_path: Path, program: str) -> AsyncIterator[MpsControl]:
    """Of a host whose daemons are all gone after the test."""
    control = control_in(tmp_path, program)
    yield control
    for daemon in control_in(tmp_path, program).own_daemons():
        signal_all(daemon.pids())


@pytest.fixture
async def daemon(control: MpsControl) -> MpsDaemon:
    daemon = control.daemon(GPU)
    await daemon.ensure()
    return daemon


async def well(daemon: MpsDaemon) -> bool:
    return not await daemon.fault()


async def dead(pid: int) -> bool:
    return start_ticks(pid) is None


async def test_a_second_ensure_keeps_it_and_daemons_are_apart(
    control: MpsControl, tmp_path: Path, program: str
) -> None:
    one, two = control.daemon(GPU), control.daemon(OTHER)
    assert not one.process()
    await one.quit()
    await asyncio.gather(one.ensure(), one.ensure(), two.ensure())
    (pid,) = one.pids()
    await one.ensure()
    assert one.pids() == (pid,)
    assert pid not in two.pids()
    assert {daemon.uuid for daemon in control.own_daemons()} == {GPU, OTHER}
    await two.quit()
    assert one.pipe_dir.stat().st_mode & 0o077 == 0, "ours alone"
    assert b"CUDA_MPS_PROTOCOL_VERSION=2" in environment_of(pid)
    # One whose start was cut short is found by its folder.
    known = records.read(one.folder)
    assert known is not None
    assert known.process is not None
    records.write(one.folder, dataclasses.replace(known, process=None))
    (again,) = control_in(tmp_path, program).own_daemons()
    assert (again.uuid, again.pids()) == (GPU, (pid,))
    await again.ensure()
    assert records.read(one.folder) == known, "completed"
    await again.quit()
    assert not one.process()
    assert "Exit" in (one.log_dir / "control.log").read_text(), "logs say why it ended"
    # A pid that was handed out again is not taken for it.
    records.make(one.folder)
    ours = dataclasses.replace(known.process, pid=os.getpid())
    records.write(one.folder, records.MpsRecord(GPU, ours))
    assert not one.process()
    assert one.pids() == ()
    await one.quit()
    assert records.read(one.folder) is None


async def test_only_its_own_clients_are_ended_and_one_that_cannot_be_is_told(
    daemon: MpsDaemon,
) -> None:
    """A client that is killed unasked breaks its neighbours; one that was ended first does not."""
    await daemon.ask("simulate_kill_faults 1")
    async with engine_of(daemon) as one, engine_of(daemon) as two:
        assert (await one.line()).startswith("OK 50 -1 ")
        assert (await two.line()).startswith("OK")
        assert await daemon.terminate([one.pid, os.getpid()]) == (one.pid,)
        assert await one.line() == "TERMINATE"
        assert [found.pid for found in await daemon.clients()] == [two.pid]
        assert await daemon.terminate([one.pid]) == ()
        await daemon.ask("simulate_refuse_terminate CUDA_ERROR_NOT_PERMITTED")
        with pytest.raises(DeviceError, match="NOT_PERMITTED") as raised:
            await daemon.terminate([two.pid])
        assert raised.value.facts["refused"] == {str(two.pid): "CUDA_ERROR_NOT_PERMITTED"}
        with pytest.raises(DeviceError, match="in use") as raised:
            await daemon.quit()
        assert raised.value.facts["clients"] == [two.pid]
        await one.kill()
        assert await daemon.fault() == ""
        async with engine_of(daemon) as rude:
            await rude.line()
            await rude.kill()
        assert await two.line() == "FAULT"
        assert await daemon.fault()


async def test_a_fault_lasts_until_every_client_is_gone(daemon: MpsDaemon) -> None:
    async with engine_of(daemon) as one, engine_of(daemon) as two:
        await one.line()
        await two.line()
        await daemon.ask("simulate_fault")
        assert await one.line() == "FAULT"
        reason = await daemon.fault()
        assert GPU in reason
        assert "all 2 clients" in reason
        assert "fatal GPU exception" in reason, "what the log says"
        await one.kill()
        assert await daemon.fault()
        async with engine_of(daemon) as early:
            assert (await early.line()).startswith("ERR 807 ")
    await until(lambda: well(daemon))
    async with engine_of(daemon) as later:
        assert (await later.line()).startswith("OK")
        assert await daemon.fault() == ""
        (server,) = daemon.servers() or ()
        os.kill(server.pid, signal.SIGKILL)
        assert await later.line() == "FAULT"
        reason = await daemon.fault()
        assert "ended under its clients" in reason
        assert str(later.pid) in reason
    await until(lambda: well(daemon))


async def test_a_proc_that_does_not_answer_is_left_behind(
    daemon: MpsDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, servers = threading.Event(), daemon.servers

    def hangs() -> tuple[MpsProcess, ...] | None:
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
        change.setattr(daemon, "process", hangs)
        for ask in (daemon.ensure, daemon.clients, daemon.quit, lambda: daemon.ask("quit")):
            with pytest.raises(SilentError, match="MPS daemon"):
                await ask()
        answers.set()

    async def answered() -> bool:
        try:
            return not await daemon._look_for_fault()
        except SilentError:
            return False

    await until(answered)


async def test_a_daemon_that_dies_is_a_fault_until_it_is_started_anew(
    control: MpsControl, daemon: MpsDaemon
) -> None:
    async with engine_of(daemon) as engine:
        await engine.line()
        assert await daemon.fault() == ""
        control_pid, server_pid = daemon.pids()
        os.kill(engine.pid, signal.SIGSTOP)  # as an engine that computes, and has not noticed
        os.kill(control_pid, signal.SIGKILL)
        await until(lambda: dead(control_pid))
        assert daemon.pids() == (server_pid,), "what it left is still ours"
        assert [left.uuid for left in control.own_daemons()] == [GPU]
        assert "ended" in await daemon.fault()
    await daemon.ensure()
    assert await daemon.fault() == ""
    assert start_ticks(server_pid) is None, "no server of the dead one is left"
    async with engine_of(daemon) as engine:
        await engine.line()
        control_pid, server_pid = daemon.pids()
        os.kill(control_pid, signal.SIGKILL)
        await until(lambda: dead(control_pid))
    await daemon.quit()
    assert start_ticks(server_pid) is None
    assert control.own_daemons() == []


@pytest.mark.parametrize("left", ["", "?"], ids=["lost", "damaged"])
async def test_without_its_record_a_living_daemon_is_asked_and_kept(
    control: MpsControl, daemon: MpsDaemon, left: str
) -> None:
    """A file that is gone or damaged ends none of the engines that run under the daemon."""
    (pid,) = daemon.pids()
    file = daemon.folder / records.RECORD
    file.write_text(left) if left else file.unlink()
    assert daemon.process()
    assert daemon.pids() == (pid,)
    assert await daemon.fault() == ""
    await daemon.ensure()
    assert daemon.pids() == (pid,)
    assert [known.uuid for known in control.own_daemons()] == [GPU]
    file.write_text(left) if left else file.unlink()
    await daemon.quit()
    assert start_ticks(pid) is None


async def test_one_that_hangs_is_told_and_can_be_ended(
    daemon: MpsDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "QUIT_SECONDS", 0.0)
    monkeypatch.setattr(lifecycle, "GONE_SECONDS", 0.1)
    (pid,) = daemon.pids()
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(DeviceError, match="did not answer") as raised:
        await daemon.ask("get_server_list", seconds=0.1)
    assert raised.value.hint
    monkeypatch.setattr(queries, "ASK_SECONDS", 0.1)
    await daemon.quit()
    assert start_ticks(pid) is None


async def test_one_that_hangs_is_silent_until_it_answers_again(
    control: MpsControl, daemon: MpsDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it has clients or not; it ends no engine."""
    monkeypatch.setattr(daemons, "ANSWER_SECONDS", 0.5)

    async def stopped_and_continued() -> None:
        pid = daemon.pids()[0]
        os.kill(pid, signal.SIGSTOP)
        with monkeypatch.context() as patch:
            patch.setattr(daemons, "SILENT_SECONDS", 0.4)
            for terminating in (1, 1, 0, 0):  # it answers nobody while it ends a client
                patch.setattr(daemon, "_terminating", terminating)
                assert control.silent() == {}, "it may be busy for a while"
                daemon._checked_at = float("-inf")
                assert await daemon.fault() == ""
            assert "has not answered" in control.silent()[GPU]
            patch.setattr(daemons, "ANSWER_SECONDS", 60.0)
            os.kill(pid, signal.SIGCONT)
            assert await daemon._look_for_fault() == ""
            assert control.silent() == {}

    await stopped_and_continued()
    async with engine_of(daemon) as engine:
        await engine.line()
        await stopped_and_continued()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 3", "status 3"),
        ("echo 'Failed to start: no GPU here'; exit 1", "no GPU here"),
        ("exit 0", "did not start"),
        ("", "not installed"),
    ],
)
async def test_one_that_does_not_come_up_leaves_nothing(
    tmp_path: Path, launcher: Launcher, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    if words == "did not start":
        monkeypatch.setattr(lifecycle, "START_SECONDS", 0.1)
    program = str(clients.scripted(tmp_path, script)) if script else "/no/such/mps-control"
    assert ("nvidia-compute-utils" in control_in(tmp_path, program).unavailable()) == (not script)
    for path in (None, launcher.path) if words == "no GPU here" else (None,):
        daemon = control_in(tmp_path, program, path).daemon(GPU)
        with pytest.raises(DeviceError, match=words) as raised:
            await daemon.ensure()
        assert raised.value.hint
        assert records.read(daemon.folder) is None
        assert not daemon.process()
        assert not daemon.pipe_dir.exists()


async def test_a_driver_that_knows_no_time_for_quit_is_asked_plainly(
    tmp_path: Path, program: str
) -> None:
    older = clients.scripted(tmp_path, f"sed 's/quit -t/nothing/' | {program} \"$@\"")
    daemon = MpsControl(tmp_path / "r", str(older)).daemon(GPU)
    for _ in range(2):
        await daemon.ensure()
        await daemon.ensure()
        (pid,) = daemon.pids()
        await daemon.quit()
        assert start_ticks(pid) is None
        log = (daemon.log_dir / "control.log").read_text().splitlines()
        assert any(line.endswith("Cmd:quit") for line in log)
        assert "Exit" in log[-2] + log[-1], "it ended by itself"
