"""Defines the request fields that are read. msgspec is C, so this is not compiled (`native`)."""

from typing import Any, Final

import msgspec

NOT_GIVEN: Final = msgspec.Raw(b"")
_Scalar = str | int | float | bool | None
"""Of the wrong type, too: msgspec refuses lists and objects before it builds them."""


class RequestBody(msgspec.Struct):
    """The fields that the proxy reads of any request's JSON; null means the same as absent.

    Fields that become prompt are kept as received, so that their bytes can be counted. Fields that
    are not here (such as `metadata`) are skipped: no engine makes tokens of them.
    """

    model: _Scalar = None
    stream: _Scalar = None
    stream_options: msgspec.Raw = NOT_GIVEN
    n: _Scalar = None
    best_of: _Scalar = None
    echo: _Scalar = None
    max_tokens: _Scalar = None
    max_completion_tokens: _Scalar = None
    max_output_tokens: _Scalar = None
    prompt: msgspec.Raw = NOT_GIVEN
    prompt_embeds: msgspec.Raw = NOT_GIVEN
    tokens: msgspec.Raw = NOT_GIVEN
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
    """Any JSON object; none of its fields is read."""


class Size(msgspec.Struct):
    """The size of a request.

    Attributes:
        prompts: number of prompts; 0 if the request does not need the engine's GPU.
        prompt_bytes: of all prompts together: bytes of text, or of the JSON that a template turns
            into a prompt (messages, tools, documents).
        prompt_tokens: exact count if the prompts are token ids, else 0.
        max_tokens: limit on the output of one sequence, or None.
        own_limit: the client set `max_tokens`; else it is a default, which limits override.
        has_choices: the route answers each prompt `n` times; other routes ignore that field.
        echoed_bytes: of the prompts that its answers begin with.
    """

    prompts: int
    prompt_bytes: int
    prompt_tokens: int = 0
    max_tokens: int | None = 0
    own_limit: bool = True
    has_choices: bool = False
    echoed_bytes: int = 0


class ParsedRequest(msgspec.Struct):
    """A request as far as the proxy reads it.

    Attributes:
        model: name of the model as the client sent it.
        stream: the client asked for server-sent events.
        wants_usage: the client asked for usage in its stream.
        stream_options: as given.
        sequences: prompts x n.
        echoes: its answers may begin with what it sent.
    """

    model: str
    stream: bool
    wants_usage: bool
    stream_options: Any
    sequences: int
    size: Size
    echoes: bool = False
