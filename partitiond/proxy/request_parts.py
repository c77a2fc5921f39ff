"""What is read of a request. Made by msgspec, in C already, and so not compiled (see `native`)."""

from typing import Any

import msgspec


class Body(msgspec.Struct):
    """What the proxy reads of any request's JSON; null and absent are the same to it."""

    model: Any = None
    stream: Any = None
    stream_options: Any = None
    n: Any = None
    best_of: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    user: Any = None
    prompt: Any = None
    messages: Any = None
    input: Any = None
    text_1: Any = None
    text_2: Any = None
    data_1: Any = None
    data_2: Any = None
    queries: Any = None
    items: Any = None
    documents: Any = None


class Size(msgspec.Struct):
    """How much a request asks for.

    Attributes:
        prompts: number of prompts; 0 where the engine's GPU has no part in it.
        prompt_bytes: all prompts together, in bytes of text (chat: the whole body).
        prompt_tokens: exact count where the prompts are token ids, else 0.
        max_tokens: limit on the output of one sequence, or None.
        own_limit: the client named that limit; else it is a default, and gives way to limits.
    """

    prompts: int
    prompt_bytes: int
    prompt_tokens: int = 0
    max_tokens: int | None = 0
    own_limit: bool = True


class ParsedRequest(msgspec.Struct):
    """What the proxy knows of a request.

    Attributes:
        model: as the client named it.
        stream: server-sent events are wanted.
        wants_usage: the client asked for usage in its stream.
        stream_options: as given.
        sequences: prompts x n.
        user: session by which its replica may be chosen, or empty.
    """

    model: str
    stream: bool
    wants_usage: bool
    stream_options: Any
    sequences: int
    size: Size
    user: str
