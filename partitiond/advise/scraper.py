"""Reads engines' `/metrics` every few seconds, and `/v1/models` once. GET requests only."""

import asyncio
import dataclasses
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import httpx

from partitiond.advise.identify import ServedName
from partitiond.advise.observe import keep
from partitiond.advise.readings import WANTED, EngineKey, Reading, parse, readings_of
from partitiond.core.errors import SpecError, UpstreamError

TIMEOUT_SECONDS: Final = 5.0
"""An engine that takes longer counts as one that does not answer."""
MAX_BYTES: Final = 16 * 1024 * 1024
"""An engine with thirty LoRA adapters answers with about 1 MiB."""

Sleep = Callable[[float], Awaitable[None]]


@dataclasses.dataclass(slots=True)
class ScrapedEngines:
    """What was seen so far; the object can be used at any time.

    Attributes:
        readings: readings of each engine, in the order of time.
        answered: number of looks with an answer, by address.
        missed: number of looks without an answer, and the last reason, by address.
        served: entries of `/v1/models`, by address and name.
        seconds: time since the first look.
    """

    readings: dict[EngineKey, list[Reading]] = dataclasses.field(default_factory=dict)
    answered: dict[str, int] = dataclasses.field(default_factory=dict)
    missed: dict[str, tuple[int, str]] = dataclasses.field(default_factory=dict)
    served: dict[str, dict[str, ServedName]] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


async def watch(
    addresses: Sequence[str],
    *,
    seconds: float,
    every_seconds: float,
    into: ScrapedEngines,
    on_look: Callable[[ScrapedEngines], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Sleep = asyncio.sleep,
) -> ScrapedEngines:
    """Read all addresses at once, again and again.

    Args:
        addresses: such as "http://host:8000" or "unix:/path".
        seconds: time from the first look to the last.
        every_seconds: time between two looks.
        into: receives what is seen; its contents stay valid after a cancellation.
        on_look: called after each look.
        clock, sleep: this host's clock and sleep.

    Raises:
        UpstreamError: at the first look an address does not answer with vLLM's metrics; a wrong
            address should not be found only at the end.
    """
    async with AsyncExitStack() as stack:
        clients = {
            address: await stack.enter_async_context(_client(address)) for address in addresses
        }
        began = clock()
        looks = max(2, round(seconds / every_seconds) + 1)
        for look in range(looks):
            await sleep(max(0.0, began + look * every_seconds - clock()))
            # One time for all: answers come within a fraction of the time between two looks.
            at = clock() - began
            await asyncio.gather(*(_scrape(a, c, at, into) for a, c in clients.items()))
            if look == 0:
                _check_first(into, addresses)
                await asyncio.gather(*(_models(a, c, into) for a, c in clients.items()))
            into.seconds = clock() - began
            if on_look is not None:
                on_look(into)
    return into


def _client(address: str) -> httpx.AsyncClient:
    if address.startswith("unix:"):
        transport = httpx.AsyncHTTPTransport(uds="/" + address.removeprefix("unix:").lstrip("/"))
        return httpx.AsyncClient(
            transport=transport, base_url="http://engine", timeout=TIMEOUT_SECONDS
        )
    base = address.removesuffix("/metrics")
    try:
        host = httpx.URL(base).host
        # A proxy of the environment is not asked for what listens on this host.
        return httpx.AsyncClient(
            base_url=base,
            timeout=TIMEOUT_SECONDS,
            follow_redirects=True,
            trust_env=not (host in {"localhost", "::1"} or host.startswith("127.")),
        )
    except httpx.InvalidURL as error:
        raise SpecError(
            f"{address!r} is no address of an engine: {error}.", hint="As http://127.0.0.1:8000."
        ) from error
    except ImportError as error:
        raise SpecError(
            f"{address!r} would be asked through a SOCKS proxy of the environment, which needs the "
            "package socksio.",
            hint="Unset ALL_PROXY, or name the address in NO_PROXY.",
        ) from error


async def _scrape(address: str, client: httpx.AsyncClient, at: float, into: ScrapedEngines) -> None:
    try:
        text = await _get(client, "/metrics")
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
        count, _ = into.missed.get(address, (0, ""))
        into.missed[address] = (count + 1, _said(error))
        return
    into.answered[address] = into.answered.get(address, 0) + 1
    for key, reading in readings_of(address, at, parse(text, WANTED)).items():
        keep(into.readings.setdefault(key, []), reading)


async def _get(client: httpx.AsyncClient, path: str) -> str:
    """Return the body of an answer with status 200.

    Raises:
        httpx.HTTPError: there is no answer, or one with another status.
        TimeoutError: the answer is not complete in time; httpx limits only the time between chunks.
        ValueError: the answer is too large.
    """
    async with asyncio.timeout(TIMEOUT_SECONDS), client.stream("GET", path) as answer:
        answer.raise_for_status()
        parts, size = [], 0
        async for part in answer.aiter_bytes():
            parts.append(part)
            size += len(part)
            if size > MAX_BYTES:
                raise ValueError(f"answers with more than {MAX_BYTES} bytes")
    return b"".join(parts).decode("utf-8", "replace")


def _said(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"it says {error.response.status_code} {error.response.reason_phrase}".rstrip()
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return f"no whole answer within {TIMEOUT_SECONDS:g} s"
    return str(error) or type(error).__name__


def _check_first(into: ScrapedEngines, addresses: Sequence[str]) -> None:
    for address in addresses:
        if address in into.missed:
            raise UpstreamError(
                f"{address} does not answer: {into.missed[address][1]}.",
                after_first_byte=False,
                hint="Check the address; it is asked for /metrics.",
            )
        if not any(key.address == address for key in into.readings):
            raise UpstreamError(
                f"{address} answers, but not with a vLLM's metrics.",
                after_first_byte=False,
                hint="Give the addresses of vLLM's OpenAI server (port 8000 by default), started "
                "without --disable-log-stats.",
            )


async def _models(address: str, client: httpx.AsyncClient, into: ScrapedEngines) -> None:
    """Read which model is served under which name; engines that require an API key stay unknown."""
    try:
        data: Any = json.loads(await _get(client, "/v1/models"))
    except (httpx.HTTPError, TimeoutError, ValueError, RecursionError):
        return
    listed = data.get("data") if isinstance(data, dict) else None
    entries = listed if isinstance(listed, list) else []
    into.served[address] = {
        str(entry["id"]): served_of(entry)
        for entry in entries
        if isinstance(entry, dict) and "id" in entry
    }


def served_of(entry: dict[str, Any]) -> ServedName:
    """Parse one entry of `/v1/models` as vLLM writes it."""
    length = entry.get("max_model_len")
    root = entry.get("root")
    return ServedName(
        root if isinstance(root, str) else "",
        length if isinstance(length, int) and length > 0 else None,
    )
