"""Reads the usage that an engine reports in an answer or in an event's data, by structure.

Only fields at the top level of the answer count. A client can write `"usage"` into its user's
name, its tools or its schema, and answers repeat these; they lie deeper, and msgspec skips them
without building them. msgspec does the work in C, so this module is not compiled (see `native`).
"""

from typing import Annotated, Final

import msgspec

TokenCounts = tuple[int | None, int | None]
"""(prompt tokens, output tokens); None for a number that was not reported."""

_Count = Annotated[int, msgspec.Meta(ge=0)]
"""Of any size: `core.keys.tokens_charged` knows how much of it to believe."""


class _OpenAIUsage(msgspec.Struct):
    """The usage of completions, chats, embeddings, scores and rerankings."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    total_tokens: _Count | None = None

    def tokens(self) -> TokenCounts:
        """Return the usage. Routes without output report only a total, or no output tokens."""
        prompt = self.prompt_tokens
        if prompt is None:
            prompt = self.total_tokens
        return prompt, 0 if self.completion_tokens is None else self.completion_tokens


class _NamedUsage(msgspec.Struct):
    """The usage of messages and responses. Messages count tokens that were read from or written to
    the prompt cache apart from `input_tokens`; all of them belong to the prompt.
    """

    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None

    def tokens(self) -> TokenCounts:
        """Return the tokens of the whole prompt, and of the output."""
        prompt = self.input_tokens
        if prompt is not None:
            prompt += (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)
        return prompt, self.output_tokens


class _OpenAIAnswer(msgspec.Struct):
    usage: _OpenAIUsage | None = None


class _Inner(msgspec.Struct):
    usage: _NamedUsage | None = None


class _MessagesAnswer(msgspec.Struct):
    """A whole answer, or an event: `message_start` contains the message, `message_delta` has the
    usage beside the delta.
    """

    usage: _NamedUsage | None = None
    message: _Inner | None = None


class _ResponsesAnswer(msgspec.Struct):
    """A whole answer, or an event that contains it."""

    usage: _NamedUsage | None = None
    response: _Inner | None = None


_openai: Final = msgspec.json.Decoder(_OpenAIAnswer)
_messages: Final = msgspec.json.Decoder(_MessagesAnswer)
_responses: Final = msgspec.json.Decoder(_ResponsesAnswer)


def openai_usage(data: bytes) -> TokenCounts | None:
    """Usage in an answer of OpenAI's older shape, or in one event's data; None if there is none."""
    try:
        usage = _openai.decode(data).usage
    except (ValueError, RecursionError):
        return None
    return None if usage is None else usage.tokens()


def messages_usage(data: bytes) -> TokenCounts | None:
    """Usage in an answer of Anthropic's shape, or in one event's data; None if there is none."""
    try:
        answer = _messages.decode(data)
    except (ValueError, RecursionError):
        return None
    usage = answer.usage
    if usage is None and answer.message is not None:
        usage = answer.message.usage
    return None if usage is None else usage.tokens()


def responses_usage(data: bytes) -> TokenCounts | None:
    """Usage in a response, or in the data of an event that contains one; None if there is none."""
    try:
        answer = _responses.decode(data)
    except (ValueError, RecursionError):
        return None
    usage = answer.usage
    if usage is None and answer.response is not None:
        usage = answer.response.usage
    return None if usage is None else usage.tokens()
