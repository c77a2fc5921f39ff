"""Parses request bodies: JSON is read once, with bounds, and only the fields that the proxy needs.

msgspec skips fields that mean nothing here without building them; the engine reads the body again
and checks those fields itself. Fields that bound the cost of a request must be right here, though:
`n` as a string is refused, although an engine would accept it.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from partitiond.core.dispatch.routing import ModelRoute, RequestLimits, RouteKind
from partitiond.core.units import MIB
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.request.dialects import Dialect
from partitiond.proxy.request.errors import ApiError, invalid
from partitiond.proxy.request.parts import AnyObject, ParsedRequest, RequestBody, Size
from partitiond.proxy.request.scan import PIECE_BYTES, not_json

MAX_TOKENS_LIMIT: Final = 1_048_576
"""No engine that we know serves longer contexts; a larger `max_tokens` is a mistake."""
COMPLETIONS_DEFAULT_MAX_TOKENS: Final = 16
"""Default of `max_tokens` for /v1/completions, in OpenAI's API and in vLLM."""
MAX_CHOICES: Final = 128
"""Most answers (`n`, or `best_of`) to one prompt: OpenAI's limit."""
BYTES_PER_TOKEN_ID: Final = 4
"""Bytes that a token id counts against limits of prompt bytes. English has about four bytes a
token, so a limit allows about as many tokens sent as ids as sent as text."""
LONG_BYTES: Final = 1 * MIB
"""Longer texts are counted as JSON writes them, and of longer messages the first is looked at: the
event loop has no time for a second look. Chosen."""
_WRONG_KIND: Final = re.compile(r"got `(array|object)` - at `\$\.(\w+)`")


_decoder: Final = msgspec.json.Decoder(RequestBody)
_objects: Final = msgspec.json.Decoder(list[AnyObject])
_conversations: Final = msgspec.json.Decoder(list[list[AnyObject]])
_text: Final = msgspec.json.Decoder(str)
_texts: Final = msgspec.json.Decoder(list[str])
_items: Final = msgspec.json.Decoder(list[str | AnyObject])
_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


Measure = Callable[[RequestBody], Size | ApiError]


@dataclasses.dataclass(frozen=True, slots=True)
class DataRoute:
    """One route that engines answer.

    Attributes:
        streams: whether its requests may ask for server-sent events.
        tells_usage: whether its streams report usage only on request (`stream_options`).
        output_field: the request's field for the limit on output tokens, or empty.
        engine_head: head of the request to the engine, up to the request id.
    """

    path: str
    kind: RouteKind
    measure: Measure
    dialect: Dialect
    streams: bool
    tells_usage: bool
    output_field: str
    engine_head: bytes


def parse_request(body: bytes, measure: Measure, options: ProxyOptions) -> ParsedRequest | ApiError:
    """Return the parsed request, or the error in it; `scan` found nothing against its body."""
    parsed = _decode(body)
    if isinstance(parsed, ApiError):
        return parsed
    model, stream = parsed.model, parsed.stream
    if not isinstance(model, str) or not model:
        return invalid("'model' must be a non-empty string.", "model")
    if stream is not None and stream is not True and stream is not False:
        return invalid("'stream' must be true or false.", "stream")
    if len(parsed.stream_options) > PIECE_BYTES:
        return invalid("'stream_options' is too large.", "stream_options")
    try:
        given = msgspec.json.decode(parsed.stream_options) if parsed.stream_options else None
        size = measure(parsed)
    except ValueError as error:  # in a field that was skipped so far
        return _unreadable(error)
    if isinstance(size, ApiError):
        return size
    choices = 1
    if size.has_choices and (parsed.n is not None or parsed.best_of is not None):
        counted = _choices(parsed)
        if isinstance(counted, ApiError):
            return counted
        choices = counted
    size.echoed_bytes *= choices
    sequences = size.prompts * choices
    if sequences > options.max_sequences:
        return invalid(
            f"The request has {size.prompts} inputs with {choices} answers each; together at most "
            f"{options.max_sequences} are allowed (proxy.max_sequences). Send fewer at once.",
            "n" if choices > 1 else None,
        )
    return ParsedRequest(
        model,
        stream is True,
        isinstance(given, dict) and given.get("include_usage") is True,
        given,
        sequences,
        size,
        bool(parsed.echo),
    )


def _beyond(request: ParsedRequest, limits: RequestLimits) -> ApiError | None:
    """Return the error of a request that exceeds the limits of its model or key, else None."""
    size = request.size
    prompt_bytes = size.prompt_bytes + BYTES_PER_TOKEN_ID * size.prompt_tokens
    if limits.max_prompt_bytes and prompt_bytes > limits.max_prompt_bytes:
        return invalid(
            f"The prompt has {prompt_bytes} bytes (a token id counts as {BYTES_PER_TOKEN_ID}); "
            f"at most {limits.max_prompt_bytes} are allowed here.",
            code="prompt_too_long",
        )
    if limits.max_sequences and request.sequences > limits.max_sequences:
        return invalid(
            f"The request asks for {request.sequences} sequences; at most "
            f"{limits.max_sequences} are allowed here.",
            "n",
            code="too_many_sequences",
        )
    asked = size.max_tokens if size.own_limit else None
    if limits.max_output_tokens and asked is not None and asked > limits.max_output_tokens:
        return invalid(
            f"The request asks for {asked} output tokens; at most {limits.max_output_tokens} "
            "are allowed here.",
            "max_tokens",
            code="too_many_tokens",
        )
    return None


def fitted(
    body: bytes,
    request: ParsedRequest,
    model: ModelRoute,
    route: DataRoute,
    *,
    options: ProxyOptions,
    limits: Sequence[RequestLimits],
) -> tuple[ParsedRequest, bytes] | ApiError:
    """Return a request with its body for its model's engine, or what is wrong with it there.

    Args:
        body: as the client sent it.
        request: what was parsed of it.
        model: that it asks for.
        route: that it was sent to.
        options: of the proxy.
        limits: of the model and of the key, as far as there are any.
    """
    if model.defaults_json and route.kind is RouteKind.GENERATE:
        named = request.size.own_limit and request.size.max_tokens is not None
        body = _with_defaults(body, model.defaults_json)
        parsed = parse_request(body, route.measure, options)
        if isinstance(parsed, ApiError):
            return parsed
        request = parsed
        request.size.own_limit = named
    if request.stream and not route.streams:
        return invalid("This route has no streams.", "stream")
    for each in limits:
        refusal = _beyond(request, each)
        if refusal is not None:
            return refusal
    asked = [each.max_output_tokens for each in limits if each.max_output_tokens]
    changed = _engine_body(body, request, model, route, min(asked, default=0))
    return changed if isinstance(changed, ApiError) else (request, changed)


def _with_defaults(body: bytes, defaults_json: str) -> bytes:
    """Return the body with its model's default parameters, as far as it does not set them.

    The defaults come first and the body's own parameters after them, in one object: if a name
    occurs twice, the last value counts, in every JSON reader that engines use, and in ours.
    """
    first = defaults_json.strip()[:-1].encode()
    return first + b"," + body.lstrip()[1:] if len(first) > 1 else body


def _engine_body(
    body: bytes, request: ParsedRequest, model: ModelRoute, route: DataRoute, most: int
) -> bytes | ApiError:
    """Return the body for the engine: the client's own bytes unless something must change.

    Args:
        most: limit on output tokens if the request names none, or if the default that it got is
            larger; 0 for none. The limit is then also set in the request's size.
    """
    refusal = _refuse_stream_options(request.stream_options) if route.tells_usage else None
    if refusal is not None:
        return refusal
    size, given = request.size, request.stream_options
    changes: dict[str, Any] = {}
    if model.served_name != request.model:
        changes["model"] = model.served_name
    beyond = size.max_tokens is None or (not size.own_limit and size.max_tokens > most)
    if most and route.output_field and beyond:
        changes[route.output_field] = size.max_tokens = most
    adds_usage = request.stream and route.tells_usage and not request.wants_usage
    if adds_usage and (given is None or isinstance(given, dict)):
        others = {k: v for k, v in (given or {}).items() if k != "continuous_usage_stats"}
        changes["stream_options"] = {**others, "include_usage": True}
    if not changes:
        return body
    if len(body) > LONG_BYTES or not any(b'"%b"' % name.encode() in body for name in changes):
        # The body is an object with at least one member: the model. Of two values the last counts.
        kept = memoryview(body.rstrip())[:-1]  # which is copied once
        return b"".join((kept, b",", msgspec.json.encode(changes)[1:]))
    try:
        return msgspec.json.encode(_fields.decode(body) | changes)
    except ValueError as error:
        return not_json(error)


def _refuse_stream_options(given: Any) -> ApiError | None:
    """Refuse values that the engine may read differently: charging depends on reported usage.

    Engines accept `"false"` and 0 as booleans. A value that is no object is left to the engine,
    which refuses it in its own words.
    """
    if isinstance(given, dict):
        for name in ("include_usage", "continuous_usage_stats"):
            value = given.get(name)
            if value is not None and value is not True and value is not False:
                field = f"stream_options.{name}"
                return invalid(f"'{field}' must be true or false.", field)
    return None


def _decode(body: bytes) -> RequestBody | ApiError:
    try:
        return _decoder.decode(body)
    except ValueError as error:
        if isinstance(error, msgspec.ValidationError) and not body.lstrip().startswith(b"{"):
            return invalid("The body must be a JSON object.", code="invalid_json")
        return _unreadable(error)


def _unreadable(error: ValueError) -> ApiError:
    """msgspec's error: the body is no JSON, or a field holds what it cannot."""
    if not isinstance(error, msgspec.ValidationError):
        return not_json(error)
    found = _WRONG_KIND.search(str(error))
    if found is not None:
        return invalid(f"'{found[2]}' must not be an {found[1]}.", found[2])
    told = f"A number in the body is too large to be read: {error}."
    return invalid(told, code="invalid_json")


def _choices(body: RequestBody) -> int | ApiError:
    most = 1
    for name, value in (("n", body.n), ("best_of", body.best_of)):
        if value is None:
            continue
        if type(value) is not int or not 1 <= value <= MAX_CHOICES:
            return invalid(f"'{name}' must be a whole number between 1 and {MAX_CHOICES}.", name)
        most = max(most, value)
    return most


def _tokens(value: Any, name: str) -> int | ApiError | None:
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= MAX_TOKENS_LIMIT:
        return invalid(f"'{name}' must be a whole number between 0 and {MAX_TOKENS_LIMIT}.", name)
    return value


def measure_completion(body: RequestBody) -> Size | ApiError:
    """Measure a request to /v1/completions."""
    limit = _tokens(body.max_tokens, "max_tokens")
    if isinstance(limit, ApiError):
        return limit
    size = _prompt_size(body.prompt, "prompt")
    if isinstance(size, Size):
        is_empty = not (size.prompt_bytes or size.prompt_tokens or _first(body.prompt) == b'"')
        if is_empty and _bytes_of(body.prompt_embeds):
            told = "The size of embeddings is not known here: send 'prompt' as text or token ids."
            return invalid(told, "prompt_embeds")
        size.max_tokens = COMPLETIONS_DEFAULT_MAX_TOKENS if limit is None else limit
        size.own_limit = limit is not None
        size.has_choices = True
        if body.echo is True:
            size.echoed_bytes = size.prompt_bytes + BYTES_PER_TOKEN_ID * size.prompt_tokens
    return size


def measure_chat(body: RequestBody) -> Size | ApiError:
    """Measure a chat."""
    limit = _chat_limit(body)
    size = limit if isinstance(limit, ApiError) else _measure_messages(body, limit)
    if isinstance(size, Size):
        size.has_choices = True
    return size


def _chat_limit(body: RequestBody) -> int | ApiError | None:
    limit = _tokens(body.max_completion_tokens, "max_completion_tokens")
    return _tokens(body.max_tokens, "max_tokens") if limit is None else limit


def measure_chat_batch(body: RequestBody) -> Size | ApiError:
    """Measure a batch of chats: each conversation is a prompt, and all share the other fields."""
    limit = _chat_limit(body)
    if isinstance(limit, ApiError):
        return limit
    size = _measure_conversations(body)
    if isinstance(size, Size):
        size.max_tokens, size.has_choices = limit, True
    return size


def _measure_conversations(body: RequestBody) -> Size | ApiError:
    conversations = 1  # if there is none, the engine reports what is missing
    if _bytes_of(body.messages):
        try:
            conversations = max(1, len(_conversations.decode(body.messages)))
        except msgspec.DecodeError:
            return invalid("'messages' must be a list of lists of objects.", "messages")
    # The shared fields are sent once, and become a part of every conversation's prompt.
    size = _bytes_of(body.messages) + conversations * _size_beside_messages(body)
    return Size(conversations, size)


def measure_messages(body: RequestBody) -> Size | ApiError:
    """Measure a request to /v1/messages; like engines, ignore limit fields of other routes."""
    limit = _tokens(body.max_tokens, "max_tokens")
    return limit if isinstance(limit, ApiError) else _measure_messages(body, limit)


def _measure_messages(body: RequestBody, limit: int | None) -> Size | ApiError:
    """Count messages, tools, documents and schemas: templates turn all of them into tokens.

    If there is no message, the engine reports what is missing.
    """
    messages = body.messages
    if len(messages) > LONG_BYTES and _kind_of_list(messages) == b"{":
        pass  # the engine reads them all
    elif _bytes_of(messages):
        try:
            _objects.decode(messages)
        except msgspec.DecodeError:
            if _first(messages) == b"[":
                return invalid("Each of 'messages' must be an object.", "messages")
            return invalid("'messages' must be a list.", "messages")
    return Size(1, _size_of_chat(body), 0, limit)


def _size_of_chat(body: RequestBody) -> int:
    return _bytes_of(body.messages) + _size_beside_messages(body)


def _size_beside_messages(body: RequestBody) -> int:
    return _bytes_of(
        body.system, body.tools, body.functions, body.documents, body.response_format,
        body.chat_template, body.chat_template_kwargs,
    )  # fmt: skip


def measure_responses(body: RequestBody) -> Size | ApiError:
    """Measure a request to /v1/responses."""
    limit = _tokens(body.max_output_tokens, "max_output_tokens")
    if isinstance(limit, ApiError):
        return limit
    given = body.input
    if _bytes_of(given) and _first(given) not in b'["':
        return invalid("'input' must be a string or a list.", "input")
    before = body.previous_input_messages
    return Size(1, _bytes_of(given, before, body.instructions, body.tools), 0, limit)


def measure_embedding(body: RequestBody) -> Size | ApiError:
    """Measure embeddings and pooling: one sequence per input, or per conversation. Engines that get
    both read one of them, most often the conversations.
    """
    chats = Size(1, _size_of_chat(body))  # if there is neither, the engine will refuse the body
    if _kind_of_list(body.messages) == b"[":
        found = _measure_conversations(body)
        if isinstance(found, ApiError):
            return found
        chats = found
    if not _bytes_of(body.input):
        return chats
    size: Size | ApiError = Size(1, _bytes_of(body.input))
    if _kind_of_list(body.input) != b"{":
        size = _prompt_size(body.input, "input")
    if isinstance(size, Size):
        size.prompts = max(size.prompts, chats.prompts)
        size.prompt_bytes += chats.prompt_bytes
    return size


def measure_pairs(body: RequestBody) -> Size | ApiError:
    """Measure scores and rerankings: one sequence per pair.

    What is sent once, as a query or an instruction, is a part of every pair's prompt.
    """
    sides = (
        body.query, body.text_1, body.text_2, body.data_1, body.data_2, body.queries, body.items,
        body.documents,
    )  # fmt: skip
    pairs, each = 1, _bytes_of(body.instruction, body.chat_template, body.chat_template_kwargs)
    others = 0
    for side in sides:
        items = 1
        if _first(side) == b"[":
            try:
                items = len(_items.decode(side))
            except msgspec.ValidationError:
                return invalid("Lists of inputs must hold strings or objects.")
        pairs = max(pairs, items)
        if items == 1:
            each += _bytes_of(side)
        else:
            others += _bytes_of(side)
    return Size(pairs, others + pairs * each)


def _first(field: msgspec.Raw) -> bytes:
    """The first byte of a field's JSON, which tells its type; empty if the field is absent."""
    return bytes(memoryview(field)[:1])


def _kind_of_list(field: msgspec.Raw) -> bytes:
    """The first byte of a list's first item, or `]`; empty if the field is no list."""
    return bytes(field)[1:].lstrip()[:1] if _first(field) == b"[" else b""


def _bytes_of(*fields: msgspec.Raw) -> int:
    """Bytes of the fields' JSON as received, but three for each character that is written as an
    escape of six; null counts as nothing.
    """
    total = 0
    for field in map(bytes, fields):
        if field != b"null":
            total += len(field) - 3 * (field.count(b"\\u") - field.count(b"\\\\u"))
    return total


def measure_tokenise(body: RequestBody) -> Size | ApiError:
    """Measure text or token ids that are converted: they need no sequence and no KV cache."""
    size = _prompt_size(body.prompt, "prompt")
    if isinstance(size, Size):
        size.prompts = 0
        size.prompt_bytes += _size_of_chat(body)
        # Ids are counted by their commas: none of them is built.
        has_ids = _kind_of_list(body.tokens) not in (b"", b"]")
        size.prompt_tokens += bytes(body.tokens).count(b",") + 1 if has_ids else 0
    return size


def _prompt_size(prompt: msgspec.Raw, name: str) -> Size | ApiError:
    """Size of a string, strings, token ids, or lists of token ids; other values are refused.

    Token ids are counted without being built: there may be a million of them.
    """
    if not _bytes_of(prompt):
        return Size(1, 0)
    is_long, kind = len(prompt) > LONG_BYTES, _kind_of_list(prompt)
    try:
        if _first(prompt) == b'"':
            return Size(1, len(prompt) - 2 if is_long else _byte_length(_text.decode(prompt)))
        if kind == b'"':
            texts = _texts.decode(prompt)
            return Size(len(texts), len(prompt) if is_long else sum(map(_byte_length, texts)))
        outline = bytes(prompt).translate(None, b" \t\r\n0123456789")
        lists = outline.count(b"[") - 1
        is_flat = lists == 0 or (
            outline.startswith(b"[[")
            and outline.endswith(b"]]")
            and outline.count(b"],[") == lists - 1
        )
        if is_flat and not outline.strip(b"[],"):
            return Size(lists or 1, 0, outline.count(b",") + (kind != b"]"))
    except msgspec.ValidationError:
        pass  # which item is wrong tells less than what is right
    return invalid(
        f"'{name}' must be a string, a list of strings, a list of token ids, or a list of those.",
        name,
    )


def _byte_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
