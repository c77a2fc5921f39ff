"""The proxy process starts, is adopted, crashes, restarts from disk and stops without remains."""

import asyncio
import contextlib
import dataclasses
import json
import os
import resource
import shutil
import signal
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from partitiond.core.dispatch.routing import EMPTY_ROUTING_TABLE
from partitiond.core.errors import (
    ConflictError,
    DeviceError,
    NotKeptError,
    PartitiondError,
    SettingsError,
    SilentError,
)
from partitiond.core.keys.record import KeyUse
from partitiond.platform.process_identity import is_alive
from partitiond.proxy import supervisor
from partitiond.proxy.config import ProxyArguments, ProxyOptions
from partitiond.proxy.process import (
    arguments_text,
    own_identity,
    read_identity,
    same_arguments,
    take_refusal,
    write_refusal,
)
from partitiond.proxy.server import serve
from partitiond.proxy.supervisor import ProxyProcess
from partitiond.serde import to_stored_json
from tests.machine import no_files_left
from tests.proxy.certificates import issue_host
from tests.proxy.conftest import ListLog, MakeEngine, MakeProcess, MakeProxy, key, replica, table
from tests.proxy.scraped import stats_of
from tests.proxy.scripted import (
    DONE,
    END,
    STREAM_HEAD,
    Received,
    Step,
    chunk,
    plays,
    stream,
    text_event,
)


async def complete(process: ProxyProcess, **body: object) -> httpx.Response:
    async with httpx.AsyncClient(verify=False, timeout=300) as client:
        return await client.post(
            f"{process.base_url}/v1/completions", json={"model": "m", "prompt": "x", **body}
        )


@contextlib.contextmanager
def few_open_files() -> Iterator[int]:
    """This process, and those that it starts, may open few files at first. Yields the most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1000), hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_it_starts_serves_and_stops_without_a_trace(
    make_process: MakeProcess, make_engine: MakeEngine, folder: Path
) -> None:
    """And without a process it says so."""
    process: ProxyProcess = make_process()
    assert await process.in_flight() is None
    assert await stats_of(process) == {}
    assert await process.wait_exit() is None
    with pytest.raises(PartitiondError, match="cannot be reached"):
        await process.publish(table())
    await process.stop(1)
    with few_open_files() as hard:
        assert await process.ensure_running()
    assert not await process.ensure_running()
    routes = table(replica(await make_engine()), version=5)
    await process.publish(routes)
    await process.publish(routes)
    with pytest.raises(ConflictError) as raised:
        await process.publish(table(version=4))
    assert raised.value.facts == {"published": 4, "current": 5}
    assert (await complete(process)).status_code == 200
    assert await process.in_flight() == {"m-1": 0}
    assert (await stats_of(process))["partitiond_proxy_requests_total"] == 1
    identity = process.identity
    assert identity is not None
    assert os.getsid(identity.pid) == identity.pid, "a session of its own"
    assert resource.prlimit(identity.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    control = folder / "s" / "run"
    assert stat.S_IMODE(control.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "s" / "routing.json").stat().st_mode) == 0o600
    await process.stop(1)
    await process.stop(1)
    assert not is_alive(identity)
    assert not list(control.iterdir())
    assert read_identity(folder / "s") is None
    log = (folder / "s" / "log" / "proxy.log").read_text().splitlines()
    events = [json.loads(line)["event"] for line in log]
    assert events == ["started", "request", "stopping"]
    # The process of this test, as the number of the dead one might be given to somebody else.
    fake = dataclasses.replace(identity, pid=os.getpid())
    (folder / "s" / "proxy.json").write_text(to_stored_json(fake))
    other = make_process()
    await other.stop(1)  # would end the test itself
    assert await other.ensure_running()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_table_that_cannot_be_stored_is_in_force_and_stored_once_it_can_be(
    make_process: MakeProcess, make_engine: MakeEngine, folder: Path, workers: int
) -> None:
    """As on a full disk: an engine that was started meanwhile serves, and a removed key is gone."""
    process = make_process(workers=workers)
    await process.ensure_running()
    assert process.identity is not None
    pid, file = process.identity.pid, folder / "s" / "routing.json"
    now = table(replica(await make_engine()), version=7)
    before = dataclasses.replace(now, version=6, replicas=(), keys=(key("k"),))
    await process.publish(before)
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, -1))
    with pytest.raises(NotKeptError, match="could not be written"):
        await process.publish(dataclasses.replace(now, version=7, keys=before.keys))
    assert json.loads(file.read_text())["version"] == 6, "the keys are the same"
    now = dataclasses.replace(now, version=8)
    with pytest.raises(NotKeptError, match="could not be written"):
        await process.publish(now)
    assert not file.exists(), "a proxy that starts again would take the key"
    assert (await complete(process)).status_code == 200
    resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    await process.publish(now)
    assert json.loads(file.read_text())["version"] == 8
    (folder / "s" / "routing.json").unlink()
    (file / "in-the-way").mkdir(parents=True)
    with pytest.raises(PartitiondError, match="nor the former one removed"):
        await process.publish(dataclasses.replace(now, version=9, keys=before.keys))


async def test_another_daemon_adopts_it_and_its_streams_go_on(
    make_process: MakeProcess, make_engine: MakeEngine, folder: Path
) -> None:
    """Two proxies never share a state folder."""
    go_on = asyncio.Event()
    engine = await make_engine(plays(*stream(text_event("hel"), go_on, DONE)))
    first = make_process()
    await first.ensure_running()
    await first.publish(table(replica(engine)))
    running = asyncio.create_task(complete(first, stream=True))
    await engine.got(1)
    second = make_process()
    assert not await second.ensure_running(), "adopted, not started"
    assert second.identity == first.identity
    assert await second.in_flight() == {"m-1": 1}
    await second.publish(table(replica(engine), version=2))
    (folder / "s" / "proxy.json").write_text("?")  # a third finds who listens
    third = make_process()
    assert not await third.ensure_running()
    assert third.identity is not None
    assert third.identity.pid == first.identity.pid  # type: ignore[union-attr]
    gone = asyncio.create_task(second.wait_exit())
    go_on.set()
    assert (await running).text.endswith("data: [DONE]\n\n")
    assert not gone.done()
    await second.stop(1)
    await gone
    assert await first.wait_exit() is not None, "its own child is reaped"


async def test_a_copied_state_folder_starts_a_proxy_of_its_own_and_ends_none(
    make_process: MakeProcess, folder: Path
) -> None:
    """As after `cp -r` of an installation; one that was moved keeps its proxy."""
    original = make_process()
    await original.ensure_running()
    assert original.identity is not None
    left = shutil.ignore_patterns("*.sock")
    for name in ("s", "unlocked"):
        shutil.copytree(folder / "s", folder / f"{name}-copy", ignore=left)
    (folder / "unlocked-copy" / "proxy.lock").unlink()
    for name in ("s-copy", "unlocked-copy"):
        copy = make_process(name)
        await copy.stop(0)
        assert await copy.ensure_running()
        await copy.stop(0)
        assert is_alive(original.identity)
    shutil.move(folder / "s", folder / "moved")
    moved = make_process("moved")
    assert not await moved.ensure_running()
    assert moved.identity == original.identity


async def test_a_proxy_that_hangs_is_adopted_at_once_and_then_ended(
    make_process: MakeProcess, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Its next daemon waits for no answer, and whoever watches the process gets it replaced."""
    for limit, seconds in (("PROBE", 0.05), ("CONTROL", 0.2), ("SILENT", 0.5)):
        monkeypatch.setattr(supervisor, f"{limit}_SECONDS", seconds)
    first = make_process()
    await first.ensure_running()
    assert first.identity is not None
    os.kill(first.identity.pid, signal.SIGSTOP)
    (folder / "s" / "proxy.json").unlink()
    second = make_process()
    assert not await second.ensure_running()
    assert second.problem == ""
    gone = asyncio.create_task(second.wait_exit())
    while not second.problem and not gone.done():  # noqa: ASYNC110 - told by no event
        await asyncio.sleep(0)
    assert "does not answer" in second.problem
    await gone
    assert not is_alive(first.identity)
    assert second.problem == ""
    assert await second.ensure_running()


async def test_a_stop_of_what_no_signal_ends_has_a_deadline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever waits for it holds a pass of the loop, or the end of the daemon."""
    process = ProxyProcess(host="::1", port=0, state_dir=tmp_path, control_socket=tmp_path / "s")
    process.identity = own_identity("::1", 0, tmp_path / "s", "")
    monkeypatch.setattr(supervisor, "KILL_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "_kill", lambda _: None)
    with pytest.raises(PartitiondError, match="still alive after SIGKILL") as caught:
        await process.stop(0)
    assert caught.value.facts == {"pid": os.getpid()}


async def test_probes_that_fail_at_once_end_a_process_no_sooner_than_slow_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And those that could not be made end none."""
    socket_path, gone = tmp_path / "s", asyncio.Event()
    process = ProxyProcess(host="::1", port=0, state_dir=tmp_path, control_socket=socket_path)
    process.identity = own_identity("::1", 0, socket_path, "")
    unasked = int(2 * supervisor.SILENT_SECONDS / supervisor.PROBE_SECONDS)
    answers = [True, False, False, *[None] * unasked, True]
    asked = 0

    async def ends(_: object) -> int:
        await gone.wait()
        return -9

    async def answered(_: object) -> bool | None:
        nonlocal asked
        asked += 1
        return answers.pop(0) if answers else False

    monkeypatch.setattr(process, "_gone", ends)
    monkeypatch.setattr(process, "_answers", answered)
    monkeypatch.setattr(supervisor, "_kill", lambda _: gone.set())
    assert await process.wait_exit() == -9
    assert asked == 4 + unasked + supervisor.SILENT_SECONDS / supervisor.PROBE_SECONDS


async def test_who_can_open_nothing_does_not_say_that_the_proxy_is_gone(tmp_path: Path) -> None:
    process = ProxyProcess(host="::1", port=0, state_dir=tmp_path, control_socket=tmp_path / "s")
    with pytest.raises(PartitiondError, match="cannot be reached"):
        await process.metrics_text()
    with no_files_left(), pytest.raises(SilentError, match="is not known"):
        await process.metrics_text()


def as_of_another_release(folder: Path) -> None:
    """What a proxy left on disk, with a field and an option more, and an option less."""
    for name in ("proxy.json", "routing.json"):
        file = folder / name
        body = json.loads(file.read_text()) | {"body_version": 99, "colour": "red"}
        if name == "proxy.json":
            address, _, options = body["arguments"].partition(" ")
            less = json.loads(options) | {"colour": "red"}
            less.pop("max_body_bytes", None)
            body["arguments"] = f"{address} {json.dumps(less)}"
        file.write_text(json.dumps(body))


async def test_a_proxy_of_another_release_is_adopted_and_serves_on_after_it_was_killed(
    make_process: MakeProcess, make_engine: MakeEngine, folder: Path
) -> None:
    """And another one that was started with other arguments takes its place."""
    first = make_process()
    await first.ensure_running()
    route = replica(await make_engine())
    await first.publish(table(route))
    as_of_another_release(folder / "s")
    second = make_process()
    assert not await second.ensure_running()
    assert second.identity is not None
    assert first.identity is not None
    assert second.identity.pid == first.identity.pid
    body = json.loads(to_stored_json(table(route, version=9))) | {"colour": "red"}
    body["replicas"][0]["colour"] = "red"
    answer = await second._request("PUT", "/routing", json.dumps(body))
    assert answer.json() == {"version": 9, "accepted": True}
    assert (await complete(second)).status_code == 200
    as_of_another_release(folder / "s")
    exit_seen = asyncio.create_task(first.wait_exit())
    os.kill(first.identity.pid, signal.SIGKILL)
    assert await exit_seen == -signal.SIGKILL
    assert await second.ensure_running()  # it serves again from the table on disk
    assert (await complete(second)).status_code == 200
    state, old = await second.state(), second.identity
    assert state is not None
    assert state["version"] == 9
    third = make_process(max_body_bytes=1000)
    assert await third.ensure_running()
    await second.wait_exit()
    assert not is_alive(old)


def test_only_what_both_releases_know_tells_proxies_apart() -> None:
    here = arguments_text("::1", 80, ProxyOptions())
    assert same_arguments(here, here)
    assert same_arguments("::1:80 {}", here)
    assert not same_arguments(here, arguments_text("::1", 81, ProxyOptions()))
    assert not same_arguments(here, arguments_text("::1", 80, ProxyOptions(max_body_bytes=1)))
    assert not same_arguments("::1:80 ?", here)


async def test_stopping_lets_requests_finish_within_the_grace_and_ends_what_outlives_it(
    make_process: MakeProcess, make_engine: MakeEngine, folder: Path
) -> None:
    """The one that outlives it gets an error event. The log was rotated meanwhile."""
    go_on = asyncio.Event()

    def script(received: Received) -> list[Step]:
        end: list[Step] = ["hold"]
        if received.body["prompt"] == "ends":
            end = [go_on, chunk(text_event("lo", "stop")), chunk(DONE), END]
        return [STREAM_HEAD, chunk(text_event("hel")), *end]

    engine = await make_engine(script)
    process = make_process(log_max_bytes=200, log_backups=2)
    await process.ensure_running()
    await process.publish(table(replica(engine)))
    ends, outlives = (
        asyncio.create_task(complete(process, stream=True, prompt=prompt))
        for prompt in ("ends", "outlives")
    )
    await engine.got(2)
    stopping = asyncio.create_task(process.stop(1))
    go_on.set()
    text = (await ends).text
    assert "error" not in text
    assert text.endswith("data: [DONE]\n\n")
    assert '"code":"shutting_down"' in (await outlives).text
    await stopping
    logs = sorted(path.name for path in (folder / "s" / "log").iterdir())
    assert logs == ["proxy.log", "proxy.log.1", "proxy.log.2"]


async def test_a_port_in_use_is_said_with_what_to_do(make_process: MakeProcess) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        process = make_process(port=port)
        with pytest.raises(DeviceError, match=f"Port {port}") as raised:
            await process.ensure_running()
    assert f":{port}" in raised.value.hint
    assert process.identity is None


async def refusal(folder: Path, host: str = "127.0.0.1", **changes: str) -> PartitiondError:
    """What a daemon is told of a proxy that does not even start."""
    options = ProxyOptions(**changes)  # type: ignore[arg-type]
    with pytest.raises(PartitiondError) as raised:
        await serve(ProxyArguments(host, 0, folder, folder / "c.sock", None, options), ListLog())
    write_refusal(folder, raised.value)
    told = take_refusal(folder)
    assert told is not None
    assert take_refusal(folder) is None, "it is told once"
    return told


async def test_an_address_that_cannot_be_used_is_said_with_what_to_do(folder: Path) -> None:
    nobodys = await refusal(folder, "192.0.2.1")
    assert isinstance(nobodys, SettingsError)
    assert "192.0.2.1" in str(nobodys)
    unusable = await refusal(folder, peers_address="127.0.0.1:1", peers_tls=str(folder / "none"))
    assert isinstance(unusable, SettingsError)
    assert "other hosts in" in str(unusable)
    assert "partitiond host certificate" in unusable.hint
    files = issue_host(folder, "a")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = await refusal(folder, peers_address=f"127.0.0.1:{port}", peers_tls=str(files))
    assert isinstance(taken, DeviceError)
    assert str(port) in str(taken)
    assert "[proxy] peers_port" in taken.hint


@pytest.mark.parametrize("left", ["", "{", "[]", '{"code": "device"}'])
def test_a_refusal_that_cannot_be_read_is_none(folder: Path, left: str) -> None:
    (folder / "refusal.json").write_text(left)
    assert take_refusal(folder) is None


def test_nobody_is_served_over_the_network_without_certificates() -> None:
    with pytest.raises(SettingsError, match=r"10\.0\.0\.5:6387 without TLS") as raised:
        ProxyOptions(peers_address="10.0.0.5:6387")
    assert "partitiond host certificate" in raised.value.hint
    assert ProxyOptions(peers_address="unix:/run/peers.sock").peers_tls == ""


@pytest.mark.parametrize("content", ["", "{", '{"version": "x"}', "\x00\x00"])
async def test_a_broken_table_on_disk_does_not_keep_it_from_starting(
    make_proxy: MakeProxy, folder: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    proxy = await make_proxy()
    (folder / "state").mkdir(exist_ok=True)
    (folder / "state" / "routing.json").write_text(content)
    proxy.state.load()
    assert "is not readable" in caplog.text
    assert (await proxy.complete()).status_code == 503
    assert proxy.state.apply(table())


# The daemon understands a proxy's answers, for every version of the proxy


class Answers:
    """A control socket that says one thing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state: dict[str, Any] = {}
        self.error: bytes | None = None

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        status = "200 OK" if self.error is None else "500 Internal Server Error"
        body = json.dumps(self.state).encode() if self.error is None else self.error
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def answers(folder: Path) -> AsyncIterator[Answers]:
    made = Answers(folder / "c.sock")
    server = await asyncio.start_unix_server(made, made.path)
    async with server:
        yield made


def process(folder: Path, **options: Any) -> ProxyProcess:
    return ProxyProcess(
        host="127.0.0.1",
        port=8000,
        state_dir=folder,
        control_socket=folder / "c.sock",
        options=ProxyOptions(**options),
    )


async def test_the_use_of_keys_is_read_where_the_proxy_counts_it(
    answers: Answers, folder: Path
) -> None:
    use = {"requests": 3, "tokens": 120, "budget_used": 100, "in_flight": 1}
    answers.state = {"pid": 1, "keys": {"key-1": use}}
    assert await process(folder).key_use() == {"key-1": KeyUse(3, 120, 100, 1)}
    answers.state = {"pid": 1}
    assert await process(folder).key_use() is None, "a proxy of an older version"
    answers.state = {"pid": 1, "keys": {"key-1": {"spent": 1}}}
    assert await process(folder).key_use() is None, "a proxy of a newer version"


@pytest.mark.parametrize("told", [b"Internal Server Error", b"", b"[1]", b'{"message":"?"}'])
async def test_an_error_that_is_not_in_the_proxys_shape_is_told_as_it_is(
    answers: Answers, folder: Path, told: bytes
) -> None:
    answers.error = told
    with pytest.raises(PartitiondError, match="status 500") as raised:
        await process(folder).publish(EMPTY_ROUTING_TABLE)
    assert told.decode() in str(raised.value)
