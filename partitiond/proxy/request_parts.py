"""What is read of a request. Made by msgspec, in C already, and so not compiled (see `native`)."""

from typing import Any, Final

import msgspec

NOT_GIVEN: Final = msgspec.Raw(b"")


class Body(msgspec.Struct):
    """What the proxy reads of any request's JSON; null and absent are the same to it.

    What becomes prompt is kept as it came, so that its bytes can be counted. Fields that are not
    here (as `metadata`) are skipped: no engine makes tokens of them.
    """

    model: Any = None
    stream: Any = None
    stream_options: Any = None
    stream_interval: Any = None
    n: Any = None
    best_of: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    user: Any = None
    prompt: Any = None
    prompt_embeds: Any = None
    messages: msgspec.Raw = NOT_GIVEN
    system: msgspec.Raw = NOT_GIVEN
    tools: msgspec.Raw = NOT_GIVEN
    functions: msgspec.Raw = NOT_GIVEN
    response_format: msgspec.Raw = NOT_GIVEN
    chat_template: msgspec.Raw = NOT_GIVEN
    chat_template_kwargs: msgspec.Raw = NOT_GIVEN
    instructions: msgspec.Raw = NOT_GIVEN
    input: msgspec.Raw = NOT_GIVEN
    previous_input_messages: msgspec.Raw = NOT_GIVEN
    query: msgspec.Raw = NOT_GIVEN
    instruction: msgspec.Raw = NOT_GIVEN
    text_1: msgspec.Raw = NOT_GIVEN
    text_2: msgspec.Raw = NOT_GIVEN
    data_1: msgspec.Raw = NOT_GIVEN
    data_2: msgspec.Raw = NOT_GIVEN
    queries: msgspec.Raw = NOT_GIVEN
    items: msgspec.Raw = NOT_GIVEN
    documents: msgspec.Raw = NOT_GIVEN


class AnyObject(msgspec.Struct):
    """Any JSON object; none of its fields is looked at."""


class Size(msgspec.Struct):
    """How much a request asks for.

    Attributes:
        prompts: number of prompts; 0 where the engine's GPU has no part in it.
        prompt_bytes: all prompts together, in bytes: of text, or of the JSON of whatever a template
            makes a prompt of (messages, tools, documents).
        prompt_tokens: exact count where the prompts are token ids, else 0.
        max_tokens: limit on the output of one sequence, or None.
        own_limit: the client named that limit; else it is a default, and gives way to limits.
        has_choices: the route answers each prompt `n` times; others ignore that field.
    """

    prompts: int
    prompt_bytes: int
    prompt_tokens: int = 0
    max_tokens: int | None = 0
    own_limit: bool = True
    has_choices: bool = False


class ParsedRequest(msgspec.Struct):
    """What the proxy knows of a request.

    Attributes:
        model: as the client named it.
        stream: server-sent events are wanted.
        wants_usage: the client asked for usage in its stream.
        stream_options: as given.
        sequences: prompts x n.
        user: session by which its replica may be chosen, or empty.
        stream_interval: tokens that it asks each event of its stream to hold.
    """

    model: str
    stream: bool
    wants_usage: bool
    stream_options: Any
    sequences: int
    size: Size
    user: str
    stream_interval: int = 1
