"""Answers the requests of clients that no engine answers: what there is, health, refusals.

Routes are matched on the decoded path, which authentication also uses; "//", "/./" or a second
layer of escapes match nothing. A browser's preflight comes without a key, so it is answered before
a key is required; the answer only tells which origins may call.
"""

import json
import logging
from typing import Final

from partitiond.core.dispatch.routing import ModelRoute
from partitiond.proxy.edge.answer import JSON, Answer, ClientSide
from partitiond.proxy.edge.heads import RequestHead
from partitiond.proxy.edge.state import ProxyState
from partitiond.proxy.keys.auth import Caller
from partitiond.proxy.request import errors
from partitiond.proxy.request.errors import ApiError
from partitiond.proxy.request.routes import BY_PATH, dialect_of
from partitiond.proxy.telemetry.logs import json_line

MODELS: Final = "/v1/models"
HEALTH: Final = ("/healthz", "/health")
"""Engines use the second path, so load balancers and instruments ask for it."""

_logger = logging.getLogger("partitiond.proxy")


class LocalRequest:
    """One request that has its answer at once, which is its connection's last if it has a body.

    Attributes:
        http: its answer.
        has_body: its body, which nobody reads, is dropped.
    """

    def __init__(
        self, client: ClientSide, method: str, path: str, headers: list[tuple[bytes, bytes]],
        *, keep_alive: bool, has_body: bool,
    ) -> None:  # fmt: skip
        self._client = client
        self.has_body = has_body
        self._method = method
        self._path = path
        self._headers = headers
        self._head = RequestHead(headers)
        self._request_id = self._head.request_id()
        self.http = Answer(
            client, dialect_of(path), self._request_id, keep_alive=keep_alive and not has_body,
            chunked=False,
        )  # fmt: skip
        self.http.is_bodiless = method == "HEAD"

    def answer(self) -> None:
        """Send the answer."""
        try:
            if not self._answer_preflight():
                self._answer()
        except Exception:
            _logger.exception("%s failed inside the proxy", self._path)
            self._refuse(errors.INTERNAL)

    def _answer_preflight(self) -> bool:
        """Answer a browser's preflight of an allowed origin, or note which origin may read."""
        cors, origin = self._client.state.cors, self._head.origin
        if cors is None:
            return False
        asked = dict(self._headers)
        if self._method == "OPTIONS" and origin and asked.get(b"access-control-request-method"):
            allowed = None
            if self._path in BY_PATH or _is_of_models(self._path):
                wanted = asked.get(b"access-control-request-headers", b"")
                allowed = cors.preflight(origin, wanted)
            if allowed is not None:
                self.http.empty(204, b"".join(b"%b: %b\r\n" % header for header in allowed))
                return True
            origin = b""  # refused: answered like any other OPTIONS, hidden from the page
        self.http.extra = cors.lines(origin)
        return False

    def _answer(self) -> None:
        state, path = self._client.state, self._path
        is_read = self._method in {"GET", "HEAD"}
        if path in BY_PATH:
            self._refuse(errors.wrong_method(self._method, "POST"))
        elif path not in HEALTH and not _is_of_models(path):
            self._refuse(errors.unknown_route(self._method, path))
        elif not is_read:
            self._refuse(errors.wrong_method(self._method, "GET"))
        elif path in HEALTH:
            status = _health(state)
            self._send({"status": status}, 200 if status == "ok" else 503)
        else:
            self._answer_models(state)

    def _answer_models(self, state: ProxyState) -> None:
        """List the models that the caller may use, or describe one, by name or alias."""
        if state.table.version == 0:
            self._refuse(errors.NO_TABLE)
            return
        caller = state.keys.identify(*self._head.keys())
        if not isinstance(caller, Caller):
            self._refuse(caller)
            return
        visible = {
            name: _model_object(name, live.route)
            for name, live in state.names.items()
            if caller.may_use(live.route.name)
        }
        if self._path == MODELS:
            self._send({"object": "list", "data": list(visible.values())})
            return
        name = self._path.removeprefix(MODELS + "/")
        if name in visible:
            self._send(visible[name])
        else:
            self._refuse(errors.unknown_model(name))

    def _send(self, value: object, status: int = 200) -> None:
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        self.http.whole(status, JSON, body)

    def _refuse(self, error: ApiError) -> None:
        state, client = self._client.state, self._client
        state.metrics.refusals[error.code or str(error.status)] += 1
        state.log.write(
            json_line(
                "request",
                request_id=self._request_id,
                route=self._path[:200],
                client=client.address,
                status=error.status,
                outcome="refused",
                error=error.code,
            )
        )
        self.http.error(error)


def _health(state: ProxyState) -> str:
    if state.draining:
        return "draining"
    if state.table.version == 0:
        return "starting"
    return "keys_stale" if state.keys.is_stale() else "ok"


def _is_of_models(path: str) -> bool:
    return path == MODELS or path.startswith(MODELS + "/")


def _model_object(name: str, route: ModelRoute) -> dict[str, object]:
    """Return the card of a model or alias, with the fields of vLLM's that clients read."""
    return {
        "id": name,
        "object": "model",
        "created": route.created_at,
        "owned_by": "partitiond",
        "root": route.name,
        "parent": None,
        "max_model_len": route.max_model_len or None,
    }
