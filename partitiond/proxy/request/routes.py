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
    measure_nothing,
    measure_pairs,
    measure_responses,
)


def _route(
    path: str,
    kind: RouteKind,
    measure: Measure,
    summary: str,
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
        summary=summary,
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
    _route("/v1/completions", _GENERATE, measure_completion, "Complete a text",
           output_field="max_tokens"),
    _route("/v1/chat/completions", _GENERATE, measure_chat, "Answer a chat",
           output_field="max_completion_tokens"),
    _route("/v1/chat/completions/batch", _GENERATE, measure_chat_batch, "Answer several chats",
           output_field="max_completion_tokens", streams=False),
    _route("/v1/responses", _GENERATE, measure_responses, "Create a response",
           dialect=RESPONSES, output_field="max_output_tokens"),
    _route("/v1/messages", _GENERATE, measure_messages, "Answer messages (Anthropic's API)",
           dialect=MESSAGES, output_field="max_tokens"),
    _route("/v1/messages/count_tokens", _TOKENIZE, measure_nothing, "Count messages' tokens",
           dialect=MESSAGES),
    _route("/v1/embeddings", _EMBED, measure_embedding, "Embed texts"),
    _route("/pooling", _EMBED, measure_embedding, "Pool hidden states"),
    _route("/classify", _EMBED, measure_embedding, "Classify texts"),
    _route("/score", _EMBED, measure_pairs, "Score pairs of texts"),
    _route("/v1/score", _EMBED, measure_pairs, "Score pairs of texts"),
    _route("/rerank", _EMBED, measure_pairs, "Rank documents by a query"),
    _route("/v1/rerank", _EMBED, measure_pairs, "Rank documents by a query"),
    _route("/v2/rerank", _EMBED, measure_pairs, "Rank documents by a query"),
    _route("/tokenize", _TOKENIZE, measure_nothing, "Turn text into tokens"),
    _route("/detokenize", _TOKENIZE, measure_nothing, "Turn tokens into text"),
)  # fmt: skip

BY_PATH: Final = {route.path: route for route in DATA_ROUTES}
BY_TARGET: Final = {route.path.encode(): route for route in DATA_ROUTES}
"""Routes by the request target as received, for the usual case."""
