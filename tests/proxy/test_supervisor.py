"""The proxy process starts, is adopted, crashes, restarts from disk and stops without remains."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import stat
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from partitiond.core.errors import ConflictError, DeviceError, PartitiondError, SettingsError
from partitiond.ports import ProxyControl
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.process import (
    arguments_text,
    is_alive,
    read_identity,
    same_arguments,
    start_ticks,
)
from partitiond.proxy.supervisor import ProxyProcess
from partitiond.serde import to_stored_json
from tests.machine import free_port, in_time
from tests.proxy.certificates import issue_host
from tests.proxy.conftest import MakeEngine, replica, table
from tests.proxy.scripted import DONE, STREAM_HEAD, Step, chunk, stream, text_event

MakeProcess = Callable[..., ProxyProcess]


@pytest.fixture
async def make_process(folder: Path) -> AsyncIterator[MakeProcess]:
    made: list[ProxyProcess] = []

    def make(name: str = "s", port: int = 0, **options: object) -> ProxyProcess:
        process = ProxyProcess(
            host="127.0.0.1",
            port=port,
            state_dir=folder / name,
            control_socket=folder / name / "run" / "proxy.sock",
            options=ProxyOptions(**options),  # type: ignore[arg-type]
        )
        made.append(process)
        (folder / name).mkdir(exist_ok=True)
        return process

    yield make
    for process in made:
        await process.stop(0)


async def complete(process: ProxyProcess, **body: object) -> httpx.Response:
    async with httpx.AsyncClient(verify=False, timeout=300) as client:
        return await client.post(
            f"{process.base_url}/v1/completions", json={"model": "m", "prompt": "x", **body}
        )


async def test_it_starts_serves_and_stops_without_a_trace(
    make_process: MakeProcess, make_engine: MakeEngine, folder: Path
) -> None:
    process = make_process()
    port: ProxyControl = process
    assert await port.ensure_running()
    assert not await process.ensure_running()
    await process.publish(table(replica(await make_engine())))
    assert (await complete(process)).status_code == 200
    assert await process.in_flight() == {"m-1": 0}
    assert (await process.stats())["partitiond_proxy_requests_total"] == 1
    identity = process.identity
    assert identity is not None
    assert os.getsid(identity.pid) == identity.pid, "a session of its own"
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
    told = [event for event in events if event != "few_files"]  # as this machine's limit is
    assert told == ["started", "request", "stopping"]


async def test_a_killed_proxy_serves_again_from_disk_within_two_seconds(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    process = make_process(port=free_port())
    await process.ensure_running()
    await process.publish(table(replica(await make_engine()), version=7))
    assert process.identity is not None
    exit_seen = asyncio.create_task(process.wait_exit())
    await asyncio.sleep(0)
    started = time.monotonic()
    os.kill(process.identity.pid, signal.SIGKILL)
    assert await exit_seen == -signal.SIGKILL
    assert await process.ensure_running()
    assert (await complete(process)).status_code == 200, "no table was published again"
    took = time.monotonic() - started
    assert in_time(took, 2.0, starts=4), took
    state = await process.state()
    assert state is not None
    assert state["version"] == 7


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_table_that_cannot_be_stored_is_in_force_and_stored_once_it_can_be(
    make_process: MakeProcess, make_engine: MakeEngine, folder: Path, workers: int
) -> None:
    """As on a full disk: an engine that was started meanwhile serves, and a removed key is gone."""
    process = make_process(workers=workers)
    await process.ensure_running()
    file = folder / "s" / "routing.json"
    (file / "in-the-way").mkdir(parents=True)
    now = table(replica(await make_engine()), version=7)
    with pytest.raises(PartitiondError, match="could not be written"):
        await process.publish(now)
    assert (await complete(process)).status_code == 200
    (file / "in-the-way").rmdir()
    file.rmdir()
    await process.publish(dataclasses.replace(now, version=8))
    assert json.loads(file.read_text())["version"] == 8


async def test_another_daemon_adopts_it_and_its_streams_go_on(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    go_on = asyncio.Event()
    steps: list[Step] = stream(text_event("hel"), go_on, text_event("lo", "stop"), DONE)
    engine = await make_engine(lambda _: list(steps))
    first = make_process()
    await first.ensure_running()
    await first.publish(table(replica(engine)))
    running = asyncio.create_task(complete(first, stream=True))
    await engine.until(lambda: len(engine.received) == 1)
    second = make_process()
    assert not await second.ensure_running(), "adopted, not started"
    assert second.identity == first.identity
    assert await second.in_flight() == {"m-1": 1}
    await second.publish(table(replica(engine), version=2))
    gone = asyncio.create_task(second.wait_exit())
    go_on.set()
    assert (await running).text.endswith("data: [DONE]\n\n")
    assert not gone.done()
    await second.stop(1)
    await asyncio.wait_for(gone, 60)
    assert await first.wait_exit() is not None, "its own child is reaped"


async def test_changed_arguments_replace_the_process(make_process: MakeProcess) -> None:
    first = make_process()
    await first.ensure_running()
    old = first.identity
    second = make_process(max_body_bytes=1000)
    assert await second.ensure_running()
    assert old is not None
    await first.wait_exit()
    assert not is_alive(old)


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


async def test_a_proxy_of_another_release_is_adopted_and_serves_on(
    make_process: MakeProcess, make_engine: MakeEngine, folder: Path
) -> None:
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
    os.kill(first.identity.pid, signal.SIGKILL)
    await first.wait_exit()
    assert await second.ensure_running()  # it serves again from the table on disk
    assert (await complete(second)).status_code == 200


def test_only_what_both_releases_know_tells_proxies_apart() -> None:
    here = arguments_text("::1", 80, ProxyOptions())
    assert same_arguments(here, here)
    assert same_arguments("::1:80 {}", here)
    assert not same_arguments(here, arguments_text("::1", 81, ProxyOptions()))
    assert not same_arguments(here, arguments_text("::1", 80, ProxyOptions(max_body_bytes=1)))
    assert not same_arguments("::1:80 ?", here)


async def test_stopping_lets_requests_finish_within_the_grace(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    steps: list[Step] = stream(text_event("hel"), 0.3, text_event("lo", "stop"), DONE)
    engine = await make_engine(lambda _: list(steps))
    process = make_process()
    await process.ensure_running()
    await process.publish(table(replica(engine)))
    running = asyncio.create_task(complete(process, stream=True))
    await engine.until(lambda: len(engine.received) == 1)
    await process.stop(10)
    text = (await running).text
    assert "error" not in text
    assert text.endswith("data: [DONE]\n\n")


async def test_stopping_ends_what_outlives_the_grace_with_an_error_event(
    make_process: MakeProcess, make_engine: MakeEngine
) -> None:
    engine = await make_engine(lambda _: [STREAM_HEAD, chunk(text_event("hel")), "hold"])
    process = make_process()
    await process.ensure_running()
    await process.publish(table(replica(engine)))
    running = asyncio.create_task(complete(process, stream=True))
    await engine.until(lambda: len(engine.received) == 1)
    await process.stop(0.2)
    assert '"code":"shutting_down"' in (await running).text


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


async def test_an_address_that_is_not_ours_is_said(folder: Path) -> None:
    process = ProxyProcess(
        host="192.0.2.1", port=0, state_dir=folder, control_socket=folder / "run" / "p.sock"
    )
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1"):
        await process.ensure_running()


async def test_a_port_for_other_hosts_that_is_in_use_is_said_with_what_to_do(folder: Path) -> None:
    files = issue_host(folder, "a")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        at = f"127.0.0.1:{other.getsockname()[1]}"
        process = _with_peers(folder, at, files)
        with pytest.raises(DeviceError, match=rf"{at}, where .* in use") as raised:
            await process.ensure_running()
    assert "[proxy] peers_port" in raised.value.hint


async def test_certificates_for_other_hosts_that_cannot_be_used_are_said(folder: Path) -> None:
    process = _with_peers(folder, "127.0.0.1:1", folder / "none")
    with pytest.raises(SettingsError, match=r"other hosts at 127\.0\.0\.1:1") as raised:
        await process.ensure_running()
    assert "partitiond host certificate" in raised.value.hint


def test_nobody_is_served_over_the_network_without_certificates() -> None:
    with pytest.raises(SettingsError, match=r"10\.0\.0\.5:6387 without TLS") as raised:
        ProxyOptions(peers_address="10.0.0.5:6387")
    assert "partitiond host certificate" in raised.value.hint
    assert ProxyOptions(peers_address="unix:/run/peers.sock").peers_tls == ""


def _with_peers(folder: Path, address: str, files: Path) -> ProxyProcess:
    return ProxyProcess(
        host="127.0.0.1",
        port=0,
        state_dir=folder / "s",
        control_socket=folder / "run" / "p.sock",
        options=ProxyOptions(peers_address=address, peers_tls=str(files)),
    )


async def test_an_older_table_is_refused_with_both_versions(
    make_process: MakeProcess,
) -> None:
    process = make_process()
    await process.ensure_running()
    await process.publish(table(version=5))
    await process.publish(table(version=5))
    with pytest.raises(ConflictError) as raised:
        await process.publish(table(version=4))
    assert raised.value.facts == {"published": 4, "current": 5}


async def test_without_a_process_it_says_so(make_process: MakeProcess) -> None:
    process = make_process()
    assert await process.in_flight() is None
    assert await process.stats() == {}
    assert await process.wait_exit() is None
    with pytest.raises(PartitiondError, match="cannot be reached"):
        await process.publish(table())
    await process.stop(1)


async def test_a_pid_of_someone_else_is_not_taken_for_the_proxy(
    make_process: MakeProcess, folder: Path
) -> None:
    process = make_process()
    await process.ensure_running()
    identity = read_identity(folder / "s")
    await process.stop(1)
    assert identity is not None
    file = folder / "s" / "proxy.json"
    fake = json.loads(json.dumps({f: getattr(identity, f) for f in identity.__slots__}))
    file.write_text(json.dumps({**fake, "pid": os.getpid()}))
    other = make_process()
    await other.stop(1)  # would end the test itself
    assert await other.ensure_running()


@pytest.mark.parametrize("content", ["", "{", '{"version": "x"}', "\x00\x00"])
async def test_a_broken_table_on_disk_does_not_keep_it_from_starting(
    make_process: MakeProcess, make_engine: MakeEngine, folder: Path, content: str
) -> None:
    (folder / "s").mkdir()
    (folder / "s" / "routing.json").write_text(content)
    process = make_process()
    await process.ensure_running()
    assert (await complete(process)).status_code == 503
    await process.publish(table(replica(await make_engine())))
    assert (await complete(process)).status_code == 200


async def test_two_proxies_never_share_a_state_folder(
    make_process: MakeProcess, folder: Path
) -> None:
    first = make_process()
    await first.ensure_running()
    (folder / "s" / "proxy.json").unlink()  # the second cannot find the first
    second = make_process()
    with pytest.raises(ConflictError, match="does not answer"):
        await second.ensure_running()
    assert first.identity is not None
    assert start_ticks(first.identity.pid) is not None


async def test_the_log_is_rotated(
    make_process: MakeProcess, make_engine: MakeEngine, folder: Path
) -> None:
    process = make_process(log_max_bytes=2000, log_backups=2)
    await process.ensure_running()
    await process.publish(table(replica(await make_engine())))
    for _ in range(60):
        with contextlib.suppress(httpx.HTTPError):
            await complete(process)
        await asyncio.sleep(0.01)
    await process.stop(1)
    files = sorted(path.name for path in (folder / "s" / "log").iterdir())
    assert files[0] == "proxy.log"
    assert len(files) <= 3
    assert all(path.stat().st_size < 60_000 for path in (folder / "s" / "log").iterdir())
