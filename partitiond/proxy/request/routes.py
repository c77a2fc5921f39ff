"""Defines the data routes, how each request is measured, and how its streams look.

This is the allow-list: a path that is not here reaches no engine. The client's path is never
forwarded; each route has its own fixed path at the engine.
"""

from typing import Final

from partitiond.core.dispatch.routing import RouteKind
from partitiond.proxy.request.dialects import CHAT, MESSAGES, RESPONSES, Dialect
from partitiond.proxy.request.requests import (
    DataRoute,
    Measure,
    measure_chat,
    measure_chat_batch,
    measure_completion,
    measure_embedding,
    measure_messages,
    measure_pairs,
    measure_responses,
    measure_tokenise,
)


def _route(
    path: str,
    kind: RouteKind,
    measure: Measure,
    *,
    dialect: Dialect = CHAT,
    output_field: str = "",
    streams: bool = True,
) -> DataRoute:
    streams = streams and kind is RouteKind.GENERATE
    return DataRoute(
        path=path,
        kind=kind,
        measure=measure,
        dialect=dialect,
        streams=streams,
        tells_usage=streams and dialect is CHAT,
        output_field=output_field,
        engine_head=(
            f"POST {path} HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\n"
            "x-request-id: "
        ).encode(),
    )


_GENERATE, _EMBED, _TOKENIZE = RouteKind.GENERATE, RouteKind.EMBED, RouteKind.TOKENIZE

DATA_ROUTES: Final = (
    _route("/v1/completions", _GENERATE, measure_completion, output_field="max_tokens"),
    _route("/v1/chat/completions", _GENERATE, measure_chat, output_field="max_completion_tokens"),
    _route("/v1/chat/completions/batch", _GENERATE, measure_chat_batch,
           output_field="max_completion_tokens", streams=False),
    _route("/v1/responses", _GENERATE, measure_responses,
           dialect=RESPONSES, output_field="max_output_tokens"),
    _route("/v1/messages", _GENERATE, measure_messages,
           dialect=MESSAGES, output_field="max_tokens"),
    _route("/v1/messages/count_tokens", _TOKENIZE, measure_tokenise, dialect=MESSAGES),
    _route("/v1/embeddings", _EMBED, measure_embedding),
    _route("/pooling", _EMBED, measure_embedding),
    _route("/classify", _EMBED, measure_embedding),
    _route("/score", _EMBED, measure_pairs),
    _route("/v1/score", _EMBED, measure_pairs),
    _route("/rerank", _EMBED, measure_pairs),
    _route("/v1/rerank", _EMBED, measure_pairs),
    _route("/v2/rerank", _EMBED, measure_pairs),
    _route("/tokenize", _TOKENIZE, measure_tokenise),
    _route("/detokenize", _TOKENIZE, measure_tokenise),
)  # fmt: skip

BY_PATH: Final = {route.path: route for route in DATA_ROUTES}
BY_TARGET: Final = {route.path.encode(): route for route in DATA_ROUTES}
"""Routes by the request target as received, for the usual case."""


def dialect_of(path: str) -> Dialect:
    """Return in whose shape a path's errors are, be it a route or not."""
    return MESSAGES if path.startswith("/v1/messages") else CHAT
