"""Holds answers of each API as engines send them, with and without usage, and their requests.

Each request has a prompt of 100 bytes, which is 30 tokens by the first estimate; a generating
request asks for at most 20 tokens. Engines report (41, 7), and 41 if nothing is generated.
"""

import dataclasses
import json
from typing import Any, Final

from tests.proxy.scripted import DONE, Step, answer, chat, chat_event, completion, event, text_event

PROMPT_BYTES: Final = 100
ESTIMATE: Final = 30
LIMIT: Final = 20
TOLD_PROMPT: Final = 41
TOLD_OUTPUT: Final = 7
OUTPUT_EVENTS: Final = 3

OPENAI_USAGE: Final = {"prompt_tokens": TOLD_PROMPT, "completion_tokens": TOLD_OUTPUT}
NAMED_USAGE: Final = {"input_tokens": TOLD_PROMPT, "output_tokens": TOLD_OUTPUT}
POOLED_USAGE: Final = {"prompt_tokens": TOLD_PROMPT, "total_tokens": TOLD_PROMPT}
FORGED: Final = {"usage": 1, "input_tokens": 0, "output_tokens": 0, "prompt_tokens": 0}
"""In a place that clients write."""


def packed(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def padded(shape: str) -> Any:
    """JSON of `PROMPT_BYTES` bytes in all, `~` filled up."""
    filled = shape.replace("~", "x" * (PROMPT_BYTES - len(shape) + 1))
    assert len(filled) == PROMPT_BYTES
    return json.loads(filled)


def named(name: str, payload: dict[str, object]) -> bytes:
    return f"event: {name}\n".encode() + event({"type": name, **payload})


@dataclasses.dataclass(frozen=True)
class Api:
    """One route's requests and answers.

    Attributes:
        body: of a request, without model and stream.
        whole: an answer without its usage.
        usage: of that answer.
        begin: events up to three with output and what follows the last of them; empty where the
            route has no streams.
        told: event that tells the usage.
        end: what ends a stream.
        error: an error of the engine's in the middle of a stream.
        early_prompt: prompt tokens told before the end, or None.
        conversations: of a batch, which generates but has no streams; 0 elsewhere.
    """

    path: str
    body: dict[str, Any]
    whole: dict[str, Any]
    usage: dict[str, Any]
    begin: tuple[bytes, ...] = ()
    told: tuple[bytes, ...] = ()
    end: tuple[bytes, ...] = ()
    error: bytes = b""
    early_prompt: int | None = None
    conversations: int = 0

    @property
    def generates(self) -> bool:
        return bool(self.begin or self.conversations)

    @property
    def limit(self) -> int:
        """Output tokens of all that one request asks for."""
        return LIMIT * max(1, self.conversations) if self.generates else 0

    def request(self, *, stream: bool) -> bytes:
        more = {"stream": True} if stream else {}
        return packed({"model": "m", **self.body, **more}).encode()

    def answered(self, *, told: bool) -> list[Step]:
        usage = {"usage": self.usage} if told else {}
        return answer(packed({**self.whole, **usage}).encode())

    def prompt_of_a_part(self) -> int:
        return ESTIMATE if self.early_prompt is None else self.early_prompt


def without_usage(payload: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in payload.items() if name != "usage"}


def response(**more: object) -> dict[str, Any]:
    tools = [{"type": "function", "name": "f", "parameters": FORGED}]
    return {"id": "r", "object": "response", "output": [], "tools": tools, **more}


MESSAGE_USAGE: Final = {"input_tokens": TOLD_PROMPT, "output_tokens": 0}

COMPLETIONS: Final = Api(
    "/v1/completions",
    {"prompt": "x" * PROMPT_BYTES, "max_tokens": LIMIT},
    without_usage(completion()),
    OPENAI_USAGE,
    (text_event("one"), text_event("two"), text_event("three")),
    (event({"choices": [], "usage": OPENAI_USAGE}),),
    (DONE,),
    event({"error": {"message": "x", "code": 500}}),
)
ECHO: Final = dataclasses.replace(COMPLETIONS, body={**COMPLETIONS.body, "echo": True})
CHATS: Final = Api(
    "/v1/chat/completions",
    {"messages": padded('[{"role":"user","content":"~"}]'), "max_completion_tokens": LIMIT},
    without_usage(chat()),
    OPENAI_USAGE,
    (
        chat_event({"role": "assistant", "content": ""}),
        chat_event({"content": "one"}),
        chat_event({"content": "two"}),
        chat_event({"content": "three"}),
    ),
    (event({"choices": [], "usage": OPENAI_USAGE}),),
    (DONE,),
    event({"error": {"message": "x", "code": 500}}),
)
BATCH: Final = Api(
    "/v1/chat/completions/batch",
    {
        "messages": padded(
            '[[{"role":"user","content":"~"}],[{"role":"user","content":"ab"}]]'
        ),
        "max_completion_tokens": LIMIT,
    },
    {
        "id": "c", "object": "chat.completion", "user": FORGED,
        "choices": [{"index": at, "message": {"content": "hi"}, **FORGED} for at in range(2)],
    },
    OPENAI_USAGE,
    conversations=2,
)  # fmt: skip
MESSAGES: Final = Api(
    "/v1/messages",
    {"messages": padded('[{"role":"user","content":"~"}]'), "max_tokens": LIMIT},
    {"id": "a", "type": "message", "content": [{"type": "tool_use", "input": FORGED}]},
    NAMED_USAGE,
    (
        named("message_start", {"message": {"id": "a", "usage": MESSAGE_USAGE}}),
        named("content_block_start", {"index": 0}),
        named("content_block_delta", {"delta": {"text": "one"}}),
        named("content_block_delta", {"delta": {"text": "two"}}),
        named("content_block_delta", {"delta": {"text": "three"}}),
        named("content_block_stop", {"index": 0}),
    ),
    (named("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": NAMED_USAGE}),),
    (named("message_stop", {}),),
    named("error", {"error": {"message": "x"}}),
    TOLD_PROMPT,
)
RESPONSES: Final = Api(
    "/v1/responses",
    {"input": padded('"~"'), "max_output_tokens": LIMIT},
    response(),
    NAMED_USAGE,
    (
        named("response.created", {"response": response(usage=None)}),
        named("response.in_progress", {"response": response(usage=None)}),
        named("response.output_item.added", {"item": {}}),
        named("response.content_part.added", {"part": {}}),
        named("response.output_text.delta", {"delta": "one"}),
        named("response.output_text.delta", {"delta": "two"}),
        named("response.output_text.delta", {"delta": "three"}),
        named("response.output_text.done", {"text": "onetwothree"}),
    ),
    (named("response.completed", {"response": response(usage=NAMED_USAGE, user="u" * 3000)}),),
    (),
    named("response.failed", {"response": response(usage=None)}),
)
GENERATING: Final = (COMPLETIONS, CHATS, MESSAGES, RESPONSES)

EMBEDDED: Final = {"object": "list", "data": [{"embedding": [0.5] * 600}]}
RANKED: Final = {"id": "s", "results": [{"index": 0, "document": {"text": "x" * 3000}}]}
PAIRS: Final = {"query": "a" * 48, "documents": ["b" * 46]}
POOLING: Final = (
    Api("/v1/embeddings", {"input": "x" * PROMPT_BYTES}, EMBEDDED, POOLED_USAGE),
    Api("/pooling", {"input": "x" * PROMPT_BYTES}, EMBEDDED, POOLED_USAGE),
    Api("/v1/score", {"text_1": "a" * 48, "text_2": "b" * 48}, EMBEDDED, POOLED_USAGE),
    Api("/v1/rerank", PAIRS, RANKED, {"total_tokens": TOLD_PROMPT}),
)
