"""Engines and endpoint of another release are adopted while requests run, as real processes.

Bodies with additional and with missing fields stand for the other release.
"""

import asyncio
import dataclasses
import json
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest

from partitiond.core.model.spec import EngineOptions
from partitiond.platform.process_identity import start_ticks
from partitiond.store import open_store
from tests.controller.fakes import until
from tests.controller.test_real_processes import SECONDS, RealHost, host, make, simulated

__all__ = ["host"]

pytestmark = pytest.mark.full

OPTIONAL = ("sleep_mode", "quantization", "prefix_caching", "extra_env", "idle_seconds", "reason")


def other_form(value: Any) -> Any:
    """An object of another release: a field more everywhere, some fields less."""
    if isinstance(value, list):
        return [other_form(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {name: other_form(one) for name, one in value.items() if name not in OPTIONAL}
    return kept | {"colour": "red"}


def rewrite(path: Path, *without: str) -> None:
    body = other_form(json.loads(path.read_text()))
    path.write_text(json.dumps({name: one for name, one in body.items() if name not in without}))


def rewrite_rows(path: Path) -> None:
    with sqlite3.connect(path) as here:
        for table, column in (("plan", "body"), ("model", "spec"), ("job", "body")):
            rows = here.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
            for number, body in rows:
                if table == "job":  # params are pairs, and others' fields are mappings
                    changed = json.loads(body) | {"colour": "red"}
                else:
                    changed = other_form(json.loads(body))
                here.execute(
                    f"UPDATE {table} SET {column} = ? WHERE rowid = ?",
                    (json.dumps(changed), number),
                )
    here.close()


async def next_release(host: RealHost, *without: str) -> None:
    """Another daemon on what one of another release left running."""
    await host.service.daemon.shutdown(stop_engines=False)
    host.store.close()
    host.former.append(host.proxy)
    rewrite(host.folder / "r" / "one-1" / "launch.json", *without)
    for name in ("r/one-1/process.json", "p/proxy.json", "p/routing.json"):
        rewrite(host.folder / name)
    path = host.folder / "store.sqlite3"
    rewrite_rows(path)
    host.store = open_store(path)
    host.service, host.proxy = make(host.folder, host.store)
    await host.service.daemon.start()


def pids(host: RealHost) -> dict[str, int | None]:
    return {view.replica_id: view.pid for view in host.service.overview.replicas()}


def kinds(host: RealHost) -> list[str]:
    return [event.kind for event in host.store.events(limit=1000)]


async def test_both_are_adopted_without_a_lost_request(host: RealHost) -> None:
    await host.service.models.register(simulated("one", "opt-125m"))
    await host.serves("one")
    before, asked, ended = pids(host), [], asyncio.Event()
    assert host.proxy.identity is not None
    proxy = host.proxy.identity.pid
    url = host.proxy.base_url

    async def ask() -> None:
        body = {"model": "one", "prompt": "one two", "max_tokens": 4}
        async with httpx.AsyncClient(base_url=url, timeout=300) as client:
            while not ended.is_set():
                asked.append((await client.post("/v1/completions", json=body)).status_code)

    asking = asyncio.create_task(ask())
    await next_release(host)
    await host.serves("one")
    so_far = len(asked)
    await until(lambda: len(asked) > so_far or asking.done(), SECONDS)
    ended.set()
    await asking
    assert set(asked) == {200}
    assert pids(host) == before
    assert host.proxy.identity is not None
    assert host.proxy.identity.pid == proxy
    assert not {"engine-unreadable", "body-set-aside"} & set(kinds(host))


async def test_an_engine_that_cannot_be_read_ends_its_answers_first(host: RealHost) -> None:
    slow = EngineOptions(extra_args=("--token-seconds", "0.04"))
    await host.service.models.register(
        dataclasses.replace(simulated("one", "opt-125m"), engine=slow)
    )
    await host.serves("one")
    (old,) = pids(host).values()
    assert old is not None
    body = {"model": "one", "prompt": "x", "max_tokens": 200, "stream": True}
    async with (
        httpx.AsyncClient(base_url=host.proxy.base_url, timeout=300) as client,
        client.stream("POST", "/v1/completions", json=body) as answer,
    ):
        lines = answer.aiter_lines()
        read = [await anext(lines)]  # it has begun
        await next_release(host, "dtype")
        assert "engine-unreadable" in kinds(host)
        read += [line async for line in lines]
    assert "data: [DONE]" in read, read
    assert not any('"error"' in line for line in read)
    await until(lambda: start_ticks(old) is None, SECONDS)
    await host.serves("one")
    assert old not in pids(host).values()
    assert (await host.complete("one")).status_code == 200
