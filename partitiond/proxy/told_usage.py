"""The usage that an engine tells, read by structure from an answer or from an event's data.

Only the fields of the answer's own top level count. A client can write `"usage"` into its user's
name, its tools or its schema, which answers repeat; those lie deeper, and are skipped without being
built (msgspec). Made by msgspec, in C already, and so not compiled (see `native`).
"""

from typing import Annotated, Final

import msgspec

Told = tuple[int | None, int | None]
"""(prompt tokens, output tokens) as far as they were told."""

MAX_TOLD: Final = 2**40
"""No request uses more tokens; a larger figure is a mistake of the engine's, and not believed."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOLD)]


class _OpenAIUsage(msgspec.Struct):
    """Of completions, chats, embeddings, scores and rerankings."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    total_tokens: _Count | None = None

    def told(self) -> Told:
        """What writes no output tells a total alone, or no output tokens."""
        prompt = self.prompt_tokens
        if prompt is None:
            prompt = self.total_tokens
        return prompt, 0 if self.completion_tokens is None else self.completion_tokens


class _NamedUsage(msgspec.Struct):
    """Of messages and responses. Messages count what was read from or written to the prompt cache
    apart from `input_tokens`; all of it was prompt.
    """

    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None

    def told(self) -> Told:
        """All of the prompt, and the output."""
        prompt = self.input_tokens
        if prompt is not None:
            prompt += (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)
        return prompt, self.output_tokens


class _OpenAIAnswer(msgspec.Struct):
    usage: _OpenAIUsage | None = None


class _Inner(msgspec.Struct):
    usage: _NamedUsage | None = None


class _MessagesAnswer(msgspec.Struct):
    """A whole answer, or an event: `message_start` has the message inside, `message_delta` tells
    its usage beside the delta.
    """

    usage: _NamedUsage | None = None
    message: _Inner | None = None


class _ResponsesAnswer(msgspec.Struct):
    """A whole answer, or an event that has it inside."""

    usage: _NamedUsage | None = None
    response: _Inner | None = None


_openai: Final = msgspec.json.Decoder(_OpenAIAnswer)
_messages: Final = msgspec.json.Decoder(_MessagesAnswer)
_responses: Final = msgspec.json.Decoder(_ResponsesAnswer)


def openai_usage(data: bytes) -> Told | None:
    """Of an answer in OpenAI's older shape, or of one event's data; None where none is told."""
    try:
        usage = _openai.decode(data).usage
    except (ValueError, RecursionError):
        return None
    return None if usage is None else usage.told()


def messages_usage(data: bytes) -> Told | None:
    """Of an answer in Anthropic's shape, or of one event's data."""
    try:
        answer = _messages.decode(data)
    except (ValueError, RecursionError):
        return None
    usage = answer.usage
    if usage is None and answer.message is not None:
        usage = answer.message.usage
    return None if usage is None else usage.told()


def responses_usage(data: bytes) -> Told | None:
    """Of a response, or of the data of an event that has one inside."""
    try:
        answer = _responses.decode(data)
    except (ValueError, RecursionError):
        return None
    usage = answer.usage
    if usage is None and answer.response is not None:
        usage = answer.response.usage
    return None if usage is None else usage.told()
