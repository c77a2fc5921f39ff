"""Sends requests over a pool of kept-alive connections and records the answers."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from loadgen.http.connection import Connection, StaleConnectionError, connect, now
from loadgen.http.target import Target, parse_target
from loadgen.load.workload import Endpoint
from loadgen.results.records import Outcome, Record


class Client:
    """Sends requests to one target.

    Args:
        target: address, or its text.
        api_key: bearer key, or empty.
        timeout_seconds: whole time of one request, connecting and waiting included.
        max_connections: further requests wait for a connection; their latency still counts
            from their scheduled arrival.
    """

    def __init__(
        self,
        target: Target | str,
        *,
        api_key: str = "",
        timeout_seconds: float = 600.0,
        max_connections: int = 4096,
    ) -> None:
        self.target = parse_target(target) if isinstance(target, str) else target
        self._timeout_seconds = timeout_seconds
        self._slots = asyncio.Semaphore(max_connections)
        self._idle: list[Connection] = []
        authorization = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._head_end = (
            f" HTTP/1.1\r\nHost: {self.target.host}\r\nAccept: text/event-stream, */*\r\n"
            f"Content-Type: application/json\r\n{authorization}Content-Length: "
        )
        self._heads: dict[Endpoint, bytes] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop idle connections; those in use belong to their `send`."""
        while self._idle:
            self._idle.pop().abort()

    async def send(
        self,
        body: bytes,
        record: Record,
        on_tokens: Callable[[float, int], None] | None = None,
        *,
        endpoint: Endpoint = Endpoint.COMPLETIONS,
    ) -> Record:
        """Send one request and return its record once the request has ended, however it ended.

        Failures are outcomes of the record, not exceptions. Cancelling the task drops the
        connection, marks the record `cancelled` and raises CancelledError.

        Args:
            body: JSON to send.
            record: filled while the answer comes.
            on_tokens: called with the time and the number of tokens of each chunk.
            endpoint: where it goes.
        """
        raw = self._head(endpoint) + str(len(body)).encode() + b"\r\n\r\n" + body
        try:
            async with asyncio.timeout(self._timeout_seconds), self._slots:
                await self._exchange(raw, record, on_tokens, streams=endpoint.streams)
        except TimeoutError:
            self._close_record(record, Outcome.TIMEOUT, f"no end in {self._timeout_seconds:g} s")
        except OSError as error:
            self._close_record(record, Outcome.ERROR, f"cannot connect to {self.target}: {error}")
        except asyncio.CancelledError:
            self._close_record(record, Outcome.CANCELLED, "cancelled by the client")
            raise
        return record

    def _head(self, endpoint: Endpoint) -> bytes:
        if endpoint not in self._heads:
            path = self.target.path(endpoint.path)
            self._heads[endpoint] = f"POST {path}{self._head_end}".encode()
        return self._heads[endpoint]

    async def _exchange(
        self,
        raw: bytes,
        record: Record,
        on_tokens: Callable[[float, int], None] | None,
        *,
        streams: bool,
    ) -> None:
        while True:
            connection = await self._connection()
            try:
                await connection.request(raw, record, on_tokens, streams=streams)
            except StaleConnectionError:
                continue
            except BaseException:
                # An interrupted exchange leaves its connection in an unknown state.
                connection.abort()
                raise
            if connection.alive:
                self._idle.append(connection)
            else:
                connection.abort()
            return

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.alive:
                return connection
        return await connect(self.target)

    @staticmethod
    def _close_record(record: Record, outcome: Outcome, error: str) -> None:
        if record.outcome is Outcome.PENDING:
            record.outcome, record.error, record.end = outcome, error, now()
