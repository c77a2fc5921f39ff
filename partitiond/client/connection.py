"""Provides the client's connection to the daemon: calls and streams, answers as core types."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Self, TypeVar

import httpx

from partitiond import serde
from partitiond.client.bodies import encoded
from partitiond.client.credentials import Credentials
from partitiond.client.errors import from_problem, no_answer, not_ours
from partitiond.core.errors import InputError
from partitiond.platform.tls_files import NO_TLS

T = TypeVar("T")
R = TypeVar("R")
Query = Mapping[str, Any] | None

CONNECT_TIMEOUT_SECONDS: Final = 3.0
STREAM_SILENCE_SECONDS: Final = 45.0
"""The daemon sends a heartbeat every ten seconds; a longer silence than this means it is gone."""


class Connection:
    """A connection to the daemon, which the first call makes.

    Attributes:
        base_url: where the daemon answers.
    """

    def __init__(
        self,
        base_url: str,
        token: str,
        timeout: float = 30.0,
        *,
        actor: str = "",
        reread: Callable[[], str] | None = None,
        starts: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepare the client, which connects at the first call.

        Args:
            actor: name of the caller, as "ada@laptop"; the events of its changes contain it.
            reread: reads the token from its file, empty if there is none; called while the
                client has no token, and when the daemon refuses the client's token.
            starts: waits a moment for a daemon that is starting; false if none is. Asked when
                nobody listens, before anything was sent.
        """
        self._starts = starts
        self.base_url = base_url.rstrip("/")
        self._credentials = Credentials(token, actor, reread)
        self._timeout = timeout
        verify = NO_TLS if self.base_url.lower().startswith("http:") else True
        # HTTP proxies set in the environment are for outside hosts, not for loopback.
        self._http = httpx.Client(
            base_url=self.base_url, auth=self._credentials, trust_env=False, verify=verify
        )

    @property
    def token(self) -> str:
        """The token that the next call sends."""
        return self._credentials.token

    @token.setter
    def token(self, token: str) -> None:
        self._credentials.token = token

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Query = None,
        version: int | None = None,
        timeout: float | None = None,
    ) -> bytes:
        headers: dict[str, str] = {}
        content = None if body is None else encoded(body)
        if content is not None:
            headers["Content-Type"] = "application/json"
        if version is not None:
            headers["If-Match"] = f'"{version}"'
        request = self._http.build_request(
            method,
            path,
            content=content,
            params=query,
            headers=headers,
            timeout=httpx.Timeout(timeout or self._timeout, connect=CONNECT_TIMEOUT_SECONDS),
        )
        try:
            try:
                answer = self._once_started(lambda: self._http.send(request))
            except httpx.RemoteProtocolError:
                if method != "GET":
                    raise
                answer = self._http.send(request)  # it ends connections that were idle for a while
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise no_answer(self.base_url, error, timeout or self._timeout) from error
        if not answer.is_success:
            raise from_problem(self.base_url, answer.status_code, answer.content)
        return answer.content

    def _once_started(self, call: Callable[[], R]) -> R:
        """Call, again for as long as nobody listens and a daemon is starting."""
        while True:
            try:
                return call()
            except httpx.ConnectError:
                if not self._starts():
                    raise

    def _get(self, kind: type[T], path: str, query: Query = None) -> T:
        return self._read(kind, self._call("GET", path, query=query))

    def _read(self, kind: type[T], content: bytes) -> T:
        try:
            return serde.from_json(kind, content)
        except InputError as error:
            raise not_ours(self.base_url, 200) from error

    def _send(self, kind: type[T], method: str, path: str, **given: Any) -> T:
        """Return the answer to a call, made as `_call` takes it."""
        return self._read(kind, self._call(method, path, **given))

    def _stream(
        self, method: str, path: str, *, body: object = None, query: Query = None
    ) -> Iterator[tuple[str, bytes]]:
        """Yield name and data of the server-sent events of a stream until it ends."""
        limits = httpx.Timeout(STREAM_SILENCE_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)
        headers = {"Accept": "text/event-stream"}
        content = None if body is None else encoded(body)
        if content is not None:
            headers["Content-Type"] = "application/json"
        request = self._http.build_request(
            method, path, content=content, params=query, headers=headers, timeout=limits
        )
        try:
            with contextlib.closing(
                self._once_started(lambda: self._http.send(request, stream=True))
            ) as answer:
                if not answer.is_success:
                    raise from_problem(self.base_url, answer.status_code, answer.read())
                if "text/event-stream" not in answer.headers.get("Content-Type", ""):
                    raise not_ours(self.base_url, answer.status_code)
                yield from events(answer.iter_lines())
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise no_answer(self.base_url, error, STREAM_SILENCE_SECONDS) from error

    def _watch(self, kind: type[T], path: str, query: Query = None) -> Iterator[T]:
        """Yield the items of a stream until it ends."""
        for _, data in self._stream("GET", path, query=query):
            yield self._read(kind, data)


def events(lines: Iterator[str]) -> Iterator[tuple[str, bytes]]:
    """Yield name and data of each server-sent event in a stream of lines; skip comments."""
    name, data = "", []
    for line in lines:
        field, _, value = line.partition(":")
        if field == "event":
            name = value.strip()
        elif field == "data":
            data.append(value.removeprefix(" "))
        elif not line and data:
            yield name, "\n".join(data).encode()
            name, data = "", []
