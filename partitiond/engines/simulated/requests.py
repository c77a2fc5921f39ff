"""Reading completion requests and refusing them as vLLM does."""

import dataclasses
import hashlib
import json
import math
from typing import Any, Final

WORDS: Final = ("small", "models", "answer", "fast", "when", "each", "has", "just", "enough")
DEFAULT_MAX_TOKENS: Final = 16
"""OpenAI's default for completions."""


class RefusedError(Exception):
    """A request that is refused: the OpenAI-shaped body and its HTTP status."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "error": {"message": message, "type": kind, "param": param, "code": status},
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Generation:
    """What one request asks for.

    Attributes:
        prompts: prompt lengths in tokens; each is answered `n` times.
        output_tokens: tokens of each answer.
        finish_reason: "length", or "stop" where the answer ends by itself.
    """

    prompts: tuple[int, ...]
    n: int
    output_tokens: int
    finish_reason: str
    stream: bool
    include_usage: bool


def read_body(raw: bytes) -> dict[str, Any]:
    """The request's JSON object. Raises RefusedError."""
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise RefusedError(400, "BadRequestError", f"the body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise RefusedError(400, "BadRequestError", "the body must be a JSON object")
    return body


def read_generation(
    body: dict[str, Any], *, chat: bool, model: str, max_model_len: int
) -> Generation:
    """Check a (chat) completion request. Raises RefusedError with vLLM's status and type."""
    asked = body.get("model")
    if asked is not None and asked != model:
        raise RefusedError(
            404, "NotFoundError", f"The model `{asked}` does not exist.", param="model"
        )
    prompts = (_chat_tokens(body),) if chat else _prompt_tokens(body.get("prompt"))
    n = _whole(body, "n", 1, 1)
    wanted = _max_tokens(body, chat, max_model_len - max(prompts))
    longest = max(prompts) + max(1, wanted)
    if longest > max_model_len:
        raise RefusedError(
            400,
            "BadRequestError",
            f"This model's maximum context length is {max_model_len} tokens. However, you "
            f"requested {wanted} output tokens and your prompt contains {max(prompts)} input "
            f"tokens, for a total of {longest} tokens.",
            param="input_tokens",
        )
    stop = _natural_tokens(body)
    ends_itself = not body.get("ignore_eos") and stop < wanted
    options = body.get("stream_options") or {}
    return Generation(
        prompts=prompts,
        n=n,
        output_tokens=max(stop, _whole(body, "min_tokens", 0, 0)) if ends_itself else wanted,
        finish_reason="stop" if ends_itself else "length",
        stream=bool(body.get("stream")),
        include_usage=bool(isinstance(options, dict) and options.get("include_usage")),
    )


def _max_tokens(body: dict[str, Any], chat: bool, room: int) -> int:
    if chat and body.get("max_completion_tokens") is not None:
        return _whole(body, "max_completion_tokens", room, 1)
    return _whole(body, "max_tokens", max(1, room) if chat else DEFAULT_MAX_TOKENS, 1)


def _whole(body: dict[str, Any], name: str, default: int, least: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise RefusedError(
            400, "BadRequestError", f"{name} must be at least {least}, got {value!r}.", param=name
        )
    return value


def _text_tokens(text: str) -> int:
    """Four characters a token: English text's usual rate."""
    return max(1, math.ceil(len(text) / 4))


def _prompt_tokens(prompt: object) -> tuple[int, ...]:
    """Lengths of a text, a list of texts, a list of token ids, or a list of such lists."""
    if isinstance(prompt, str):
        return (_text_tokens(prompt),)
    if isinstance(prompt, list) and prompt:
        if all(isinstance(item, int) for item in prompt):
            return (len(prompt),)
        if all(isinstance(item, str) for item in prompt):
            return tuple(_text_tokens(item) for item in prompt)
        if all(isinstance(item, list) and item for item in prompt):
            return tuple(len(item) for item in prompt)
    raise RefusedError(
        400,
        "BadRequestError",
        "prompt must be a non-empty text, list of texts, or list of token ids.",
        param="prompt",
    )


def _chat_tokens(body: dict[str, Any]) -> int:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RefusedError(
            400, "BadRequestError", "messages must be a non-empty list.", param="messages"
        )
    text = "".join(
        json.dumps(message.get("content", "")) for message in messages if isinstance(message, dict)
    )
    return _text_tokens(text) + 4 * len(messages)


def _natural_tokens(body: dict[str, Any]) -> int:
    """Where the answer would end by itself: 24 to 63 tokens, the same for the same prompt."""
    seed = json.dumps(body.get("prompt") or body.get("messages"), sort_keys=True)
    return 24 + int(hashlib.sha256(seed.encode()).hexdigest()[:4], 16) % 40


def word(position: int) -> str:
    """The text of one token."""
    return " " + WORDS[position % len(WORDS)]
