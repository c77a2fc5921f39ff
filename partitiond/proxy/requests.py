"""Reading a generation request: JSON parsed once, bounded, and only what the proxy needs of it."""

import dataclasses
import json
from typing import Any, Final

from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.errors import ApiError, invalid

MAX_TOKENS_LIMIT: Final = 1_048_576
"""No engine of this field serves longer contexts; a larger `max_tokens` is a mistake."""
COMPLETIONS_DEFAULT_MAX_TOKENS: Final = 16
"""`max_tokens` of /v1/completions when left out, in OpenAI's API and in vLLM."""


@dataclasses.dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What the proxy knows of a request.

    Attributes:
        chat: chat completion, or else completion.
        model: as the client named it.
        payload: the parsed JSON object.
        stream: server-sent events are wanted.
        sequences: prompts x n.
        prompt_bytes: all prompts together, in bytes of text (chat: the whole body).
        prompt_tokens: exact count where the prompts are token ids, else 0.
        prompts: number of prompts.
        max_tokens: limit on the output of one sequence, or None.
    """

    chat: bool
    model: str
    payload: dict[str, Any]
    stream: bool
    sequences: int
    prompt_bytes: int
    prompt_tokens: int
    prompts: int
    max_tokens: int | None

    def body_for(self, served_name: str, body: bytes) -> bytes:
        """The body for the engine: the client's own bytes unless the engine's name differs."""
        if served_name == self.model:
            return body
        renamed = {**self.payload, "model": served_name}
        return json.dumps(renamed, separators=(",", ":")).encode()


def parse_request(
    body: bytes, *, chat: bool, options: ProxyOptions
) -> GenerationRequest | ApiError:
    """The request, or what is wrong with it."""
    payload = _load_object(body, options.max_nesting)
    if isinstance(payload, ApiError):
        return payload
    model, stream = payload.get("model"), payload.get("stream")
    if not isinstance(model, str) or not model:
        return invalid("'model' must be a non-empty string.", "model")
    if stream is not None and not isinstance(stream, bool):
        return invalid("'stream' must be true or false.", "stream")
    choices = _choices(payload, options.max_choices)
    if isinstance(choices, ApiError):
        return choices
    max_tokens = _max_tokens(payload, chat=chat)
    if isinstance(max_tokens, ApiError):
        return max_tokens
    size = _chat_size(payload, body) if chat else _prompt_size(payload, options.max_prompts)
    if isinstance(size, ApiError):
        return size
    prompts, prompt_bytes, prompt_tokens = size
    if prompts * choices > options.max_sequences:
        return invalid(
            f"The request asks for {prompts} x {choices} sequences; "
            f"at most {options.max_sequences} are allowed. Send fewer prompts at once.",
            "n",
        )
    return GenerationRequest(
        chat=chat,
        model=model,
        payload=payload,
        stream=stream is True,
        sequences=prompts * choices,
        prompt_bytes=prompt_bytes,
        prompt_tokens=prompt_tokens,
        prompts=prompts,
        max_tokens=max_tokens,
    )


def _load_object(body: bytes, max_nesting: int) -> dict[str, Any] | ApiError:
    too_deep = invalid(f"The JSON is nested deeper than {max_nesting} levels.", code="invalid_json")
    try:
        payload = json.loads(body)
    except RecursionError:
        return too_deep
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both
        return invalid(f"The body is not valid JSON: {error}.", code="invalid_json")
    if not isinstance(payload, dict):
        return invalid("The body must be a JSON object.", code="invalid_json")
    # Fewer brackets than levels cannot be too deep: the usual case costs two counts.
    if body.count(b"{") + body.count(b"[") > max_nesting and _deeper_than(payload, max_nesting):
        return too_deep
    return payload


def _deeper_than(value: object, limit: int) -> bool:
    """Level by level, without recursion."""
    level = [value]
    for _ in range(limit + 1):
        following: list[object] = []
        for item in level:
            if isinstance(item, dict):
                following.extend(x for x in item.values() if isinstance(x, dict | list))
            elif isinstance(item, list):
                following.extend(x for x in item if isinstance(x, dict | list))
        if not following:
            return False
        level = following
    return True


def _choices(payload: dict[str, Any], limit: int) -> int | ApiError:
    most = 1
    for name in ("n", "best_of"):
        value = payload.get(name)
        if value is None:
            continue
        if type(value) is not int or not 1 <= value <= limit:
            return invalid(f"'{name}' must be a whole number between 1 and {limit}.", name)
        most = max(most, value)
    return most


def _max_tokens(payload: dict[str, Any], *, chat: bool) -> int | ApiError | None:
    names = ("max_completion_tokens", "max_tokens") if chat else ("max_tokens",)
    for name in names:
        value = payload.get(name)
        if value is None:
            continue
        if type(value) is not int or not 0 <= value <= MAX_TOKENS_LIMIT:
            return invalid(
                f"'{name}' must be a whole number between 0 and {MAX_TOKENS_LIMIT}.", name
            )
        return value
    return None if chat else COMPLETIONS_DEFAULT_MAX_TOKENS


def _chat_size(payload: dict[str, Any], body: bytes) -> tuple[int, int, int] | ApiError:
    """The whole body counts: templates, tools and schemas become prompt tokens too."""
    messages = payload.get("messages")
    if not isinstance(messages, list) or not messages:
        return invalid("'messages' must be a non-empty list.", "messages")
    if not all(isinstance(message, dict) for message in messages):
        return invalid("Each of 'messages' must be an object.", "messages")
    return 1, len(body), 0


def _prompt_size(payload: dict[str, Any], max_prompts: int) -> tuple[int, int, int] | ApiError:
    """(prompts, bytes of text, tokens) of a string, strings, token ids, or lists of token ids."""
    prompt = payload.get("prompt")
    wrong = invalid(
        "'prompt' must be a string, a list of strings, a list of token ids, or a list of those.",
        "prompt",
    )
    if isinstance(prompt, str):
        return 1, _byte_length(prompt), 0
    if not isinstance(prompt, list) or not prompt:
        return wrong
    if isinstance(prompt[0], int):
        return (1, 0, len(prompt)) if all(type(x) is int for x in prompt) else wrong
    if len(prompt) > max_prompts:
        return invalid(f"At most {max_prompts} prompts are allowed in one request.", "prompt")
    if all(isinstance(item, str) for item in prompt):
        return len(prompt), sum(map(_byte_length, prompt)), 0
    if all(isinstance(item, list) and item for item in prompt) and all(
        type(x) is int for item in prompt for x in item
    ):
        return len(prompt), 0, sum(map(len, prompt))
    return wrong


def _byte_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
