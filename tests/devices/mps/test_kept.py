"""A control daemon of another user serves one group, and its keeper is not taken at its word."""

import asyncio
import contextlib
import errno
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from partitiond.core.errors import DeviceError
from partitiond.devices.mps import MpsDaemon, keeper, kept
from partitiond.devices.mps import record as records
from partitiond.engines.process import shim
from partitiond.engines.process.kept_programs import KeptPrograms
from partitiond.platform.process_identity import start_ticks
from tests.devices.mps import clients
from tests.devices.mps.clients import GPU, control_in, engine_of, environment_of
from tests.engines.process.scripts import Launcher
from tests.machine import signal_all, until


@pytest.fixture
async def daemon(tmp_path: Path, program: str, launcher: Launcher) -> AsyncIterator[MpsDaemon]:
    daemon = control_in(tmp_path, program, launcher.path).daemon(GPU)
    yield daemon
    signal_all(daemon.pids())


async def test_it_serves_one_group_where_its_clients_see_its_pipes(
    daemon: MpsDaemon, launcher: Launcher, tmp_path: Path, program: str
) -> None:
    await daemon.ensure("blue")
    blue = launcher.folder / "launch-blue"
    assert daemon.pipe_dir == blue / "3c5a1b2d/pipe"
    assert daemon.pipe_dir.is_dir()
    assert not (tmp_path / "r/mps/3c5a1b2d/pipe").exists()
    known = records.read(daemon.folder)
    assert known is not None
    assert (known.launcher, known.isolation_group) == (f"{blue}.sock", "blue")
    (pid,) = daemon.pids()
    environment = environment_of(pid)
    assert f"CUDA_VISIBLE_DEVICES={GPU}".encode() in environment
    assert b"PYTEST_CURRENT_TEST" not in environment, "our environment may hold secrets"
    again = control_in(tmp_path, program, launcher.path)
    assert {pid} <= again.pids(), "it is ours although its environment tells nobody"
    assert pid not in {one.pid for one in again.foreign()}
    with pytest.raises(DeviceError, match="group blue and none of the default isolation group"):
        await daemon.ensure("", users=["still-loading-0"])
    async with engine_of(daemon) as engine:
        await engine.line()
        with pytest.raises(DeviceError, match="group blue") as refused:
            await daemon.ensure("")
        assert "different GPUs" in refused.value.hint
        await daemon.ensure("blue")
        assert daemon.pids()[0] == pid
    await until(lambda: clients.empty(daemon))
    await daemon.ensure("")
    assert start_ticks(pid) is None, "idle, it gives way to another group's"
    assert daemon.pipe_dir.parts[-3:] == ("launch", "3c5a1b2d", "pipe")


async def test_one_of_an_earlier_release_serves_until_its_last_engine_ends(
    daemon: MpsDaemon, tmp_path: Path, program: str
) -> None:
    earlier = control_in(tmp_path, program, None).daemon(GPU)
    await earlier.ensure()
    (pid,) = earlier.pids()
    async with engine_of(earlier) as engine:
        await engine.line()
        await daemon.ensure()
        assert daemon.pids()[0] == pid
        assert not daemon.kept
        assert daemon.pipe_dir == earlier.pipe_dir, "new engines join it"
        with pytest.raises(DeviceError, match="this daemon's user and none of the isolation group"):
            await daemon.ensure("blue")
    await until(lambda: clients.empty(daemon))
    await daemon.ensure("", users=["still-loading-0"])
    assert daemon.pids()[0] == pid
    await daemon.ensure()
    assert daemon.pipe_dir.parts[-3] == "launch"
    assert start_ticks(pid) is None


async def test_a_host_without_the_socket_starts_it_as_our_user_but_never_for_a_group(
    daemon: MpsDaemon, launcher: Launcher
) -> None:
    with pytest.raises(DeviceError, match="no isolation group green") as refused:
        await daemon.ensure("green")
    assert "--isolation-group green" in refused.value.hint
    assert not daemon.process()
    launcher.path.rename(launcher.path.with_name("other.sock"))
    await daemon.ensure()
    assert not daemon.kept
    assert not launcher.started


def _dead(pid: int) -> bool:
    fields = shim.stat_fields(pid)
    return not fields or fields[0] in "ZX"


async def test_whichever_of_its_processes_dies_the_rest_ends_and_the_next_start_works(
    daemon: MpsDaemon, launcher: Launcher
) -> None:
    async def gone() -> bool:
        return not daemon.process()

    for dies in ("shim", "sandbox", "keeper", "control"):
        await daemon.ensure()
        supervisor = daemon.process()
        assert supervisor is not None
        main = int(json.loads((daemon.folder / "process.json").read_text())["main_pid"])
        async with engine_of(daemon) as engine:
            await engine.line()
            assert await daemon.fault() == ""
            control, server = daemon.pids()
            there = {"shim": supervisor.pid, "sandbox": launcher.started[-1].pid}
            there |= {"keeper": main, "control": control}
            os.kill(engine.pid, signal.SIGSTOP)  # as an engine that computes, and has not noticed
            os.kill(there[dies], signal.SIGKILL)
            await until(gone)
            assert "ended" in await daemon.fault(), dies
        await daemon.ensure()
        assert all(_dead(pid) for pid in (control, main, server)), dies
    assert await daemon.fault() == ""


async def test_servers_that_no_record_names_are_not_taken_for_ended(
    daemon: MpsDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are another user's, whose environment is closed."""
    await daemon.ensure()
    supervisor, read = daemon.process(), Path.read_bytes
    assert supervisor is not None

    def closed(path: Path) -> bytes:
        if path.name == "environ" and path.parent.name != str(supervisor.pid):
            raise PermissionError(errno.EACCES, "closed")
        return read(path)

    record = daemon.folder / "process.json"
    whole = record.read_bytes()
    async with engine_of(daemon) as engine:
        await engine.line()
        assert await daemon.fault() == ""
        with monkeypatch.context() as lost:
            lost.setattr(Path, "read_bytes", closed)
            record.write_bytes(b"{")
            assert await daemon.fault() == ""
            assert await clients.empty(daemon) is False
            await daemon.ask("simulate_fault")
            assert await engine.line() == "FAULT"
            assert "A client's fatal fault" in await daemon.fault(), "the daemon names its servers"
            record.write_bytes(whole)
        assert "A client's fatal fault" in await daemon.fault()


async def test_one_that_hangs_is_killed_without_its_consent(
    daemon: MpsDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partitiond.devices.mps.lifecycle.QUIT_SECONDS", 0.0)
    monkeypatch.setattr(kept, "GONE_SECONDS", 0.1)
    await daemon.ensure()
    (pid,) = daemon.pids()
    main = int(json.loads((daemon.folder / "process.json").read_text())["main_pid"])
    os.kill(main, signal.SIGSTOP)
    with pytest.raises(DeviceError, match="did not answer"):
        await daemon.ask("get_server_list", seconds=0.1)
    monkeypatch.setattr(kept, "ASK_SECONDS", 0.1)
    await daemon.quit()
    assert start_ticks(pid) is None
    assert start_ticks(main) is None


async def test_without_its_files_a_living_one_is_kept_and_takes_no_further_engine(
    daemon: MpsDaemon,
) -> None:
    await daemon.ensure()
    found = daemon.process()
    for name in (records.RECORD, "process.json"):
        (daemon.folder / name).unlink()
    assert found is not None
    assert (daemon.process(), daemon.kept) == (found, True)
    assert await daemon.fault() == ""
    with pytest.raises(DeviceError, match="takes no engine of"):
        await daemon.ensure()
    await daemon.quit()
    assert start_ticks(found.pid) is None


async def test_a_socket_at_which_nobody_listens_is_named(
    daemon: MpsDaemon, launcher: Launcher
) -> None:
    launcher.close()
    with pytest.raises(DeviceError, match=r"launch.sock starts no engine"):
        await daemon.ensure()
    assert records.read(daemon.folder) is None


NEVER = b""
"""Says nothing, and keeps the connection open."""


SAID = [
    b"\n",
    b"[]\n",
    b"[" * 100_000 + b"\n",
    b"not json\n",
    b"\xff\n",
    b'{"status": 0}\n',
    b'{"status": "0", "said": "", "complaints": ""}\n',
    b'{"status": true, "said": "", "complaints": ""}\n',
    b'{"status": 0, "said": ["1"], "complaints": ""}\n',
    b'{"status": 1, "said": "", "complaints": "Cannot find MPS control daemon process"}\n',
    b'{"refused": "no"}\n',
    b'{"late": true}\n',
    b"x" * 3_000_000,
    NEVER,
]


async def test_a_keeper_that_lies_is_an_error_and_no_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lies: list[asyncio.Task[None] | None] = []
    said = b""

    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lies.append(asyncio.current_task())
        await reader.readline()
        with contextlib.suppress(OSError):  # cut off
            writer.write(said)
            await writer.drain()
            if said == NEVER:
                await reader.read()
        writer.transport.abort()

    server = await asyncio.start_unix_server(lie, tmp_path / keeper.SOCKET)
    async with server:
        keepers = KeptPrograms(None)
        launcher = Path("/run/partitiond-mps.sock")
        access = kept.KeptMps(GPU, tmp_path, "/no/program", launcher, keepers)
        for said in SAID:
            seconds = 0.1 if said == NEVER else 60.0
            monkeypatch.setattr(kept, "SPARE_SECONDS", seconds)
            monkeypatch.setattr(kept, "ASK_SECONDS", seconds)
            with pytest.raises(DeviceError):
                await access.ask(("get_server_list",), seconds)
            assert await access.log("server.log") == "", said[:60]
        await asyncio.gather(*filter(None, lies))
