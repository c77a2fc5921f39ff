"""Takes a look at engines: their `/metrics` and `/v1/models`. GET requests only."""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import httpx

from partitiond.advise.identify import ServedName
from partitiond.advise.metrics import EngineKey, Reading, readings_of
from partitiond.core.errors import SpecError

TIMEOUT_SECONDS: Final = 5.0
"""An engine that takes longer counts as one that does not answer."""
MAX_BYTES: Final = 16 * 1024 * 1024
"""An engine with thirty LoRA adapters answers with about 1 MiB."""


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """What all addresses told at one time.

    Attributes:
        at_seconds: when, on a clock that never goes back.
        readings: what each engine told.
        missed: why an address told nothing of an engine, by address.
        served: entries of `/v1/models`, by address and name.
    """

    at_seconds: float
    readings: Mapping[EngineKey, Reading]
    missed: Mapping[str, str]
    served: Mapping[str, Mapping[str, ServedName]]


async def look(addresses: Sequence[str], clock: Callable[[], float] = time.monotonic) -> Look:
    """Read all addresses at once.

    Args:
        addresses: such as "http://host:8000" or "unix:/path".
        clock: this host's.

    Raises:
        SpecError: an address is none.
    """
    readings: dict[EngineKey, Reading] = {}
    missed: dict[str, str] = {}
    served: dict[str, Mapping[str, ServedName]] = {}

    async def ask(address: str, client: httpx.AsyncClient) -> None:
        try:
            text = await _get(client, "/metrics")
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            missed[address] = f"does not answer: {_said(error)}"
            return
        found: Mapping[EngineKey, Reading] = {}
        with contextlib.suppress(ValueError):
            found = readings_of(address, text)
        if not found:
            missed[address] = "answers, but not with a vLLM's metrics"
            return
        readings.update(found)
        served[address] = await _models(client)

    async with AsyncExitStack() as stack:
        clients = [(a, await stack.enter_async_context(_client(a))) for a in addresses]
        # One time for all: answers come within a fraction of the time between two looks.
        now = clock()
        await asyncio.gather(*(ask(address, client) for address, client in clients))
    return Look(now, readings, missed, served)


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


async def _models(client: httpx.AsyncClient) -> dict[str, ServedName]:
    """Read which model is served under which name; engines that require an API key stay unknown."""
    try:
        data: Any = json.loads(await _get(client, "/v1/models"))
    except (httpx.HTTPError, TimeoutError, ValueError, RecursionError):
        return {}
    listed = data.get("data") if isinstance(data, dict) else None
    entries = listed if isinstance(listed, list) else []
    return {
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
