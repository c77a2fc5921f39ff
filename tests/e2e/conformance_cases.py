"""Lists the requests that go to a bare engine and to the proxy in front of it.

`own` is the complete list of allowed differences: requests that the proxy answers itself, with the
proxy's status and code, for any answer of the engine. Everything else must be equal.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final

MODEL: Final = "tiny"
POOL: Final = "vectors"
CLASSIFIER: Final = "classes"

BAD_MODEL: Final = (400, "invalid_value")
"""A proxy for many models must be told which."""
UNKNOWN_MODEL: Final = (404, "model_not_found")
BAD_JSON: Final = (400, "invalid_json")
BAD_SIZE: Final = (400, "invalid_value")
"""The size of a request (prompts, `n`, output limit, stream) is read strictly, because it is
bounded: no numbers in quotes, nothing beyond the bounds."""
NO_JSON_TYPE: Final = (415, "unsupported_media_type")
WRONG_METHOD: Final = (405, "method_not_allowed")
UNKNOWN_URL: Final = (404, "unknown_url")
NO_ROUTE: Final = (404, "route_not_supported")
"""The engine has no such route; its `{"detail": "Not Found"}` would not tell why."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One request.

    Attributes:
        own: status and code that the proxy answers itself; None where both must answer alike.
        choices: several choices are streamed, whose order among each other is the engine's.
        status: what the real engine and the simulated one both answer; None where that is open.
    """

    name: str
    path: str
    body: Mapping[str, Any] | bytes | None
    own: tuple[int, str] | None = None
    choices: bool = False
    method: str = "POST"
    content_type: str = "application/json"
    status: int | None = None


COMPLETIONS: Final = "/v1/completions"
CHAT: Final = "/v1/chat/completions"
BATCH: Final = "/v1/chat/completions/batch"
RESPONSES: Final = "/v1/responses"
MESSAGES: Final = "/v1/messages"
EMBEDDINGS: Final = "/v1/embeddings"

USAGE: Final = {"stream_options": {"include_usage": True}}
STREAM: Final = {"stream": True}
SCHEMA: Final = {
    "type": "object",
    "properties": {"a": {"enum": ["x"]}, "b": {"type": "boolean"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
TOOL: Final = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
LONG: Final = "word " * 3000


def complete(name: str, status: int | None = 200, /, **more: Any) -> Case:
    own, choices = more.pop("own", None), more.pop("choices", False)
    body = {"model": MODEL, "prompt": "Hello my", "max_tokens": 5, "temperature": 0, **more}
    return Case(f"completions {name}", COMPLETIONS, body, own, choices, status=status)


def chat(name: str, status: int | None = 200, /, **more: Any) -> Case:
    own, choices = more.pop("own", None), more.pop("choices", False)
    messages = [{"role": "user", "content": "Say hi"}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 5, "temperature": 0, **more}
    return Case(f"chat {name}", CHAT, body, own, choices, status=status)


def batch(name: str, status: int | None = 200, /, **more: Any) -> Case:
    own = more.pop("own", None)
    body = {"model": MODEL, "messages": TWO_CHATS, "max_tokens": 5, "temperature": 0, **more}
    return Case(f"batch {name}", BATCH, body, own, status=status)


def respond(name: str, status: int | None = 200, /, **more: Any) -> Case:
    own = more.pop("own", None)
    body = {"model": MODEL, "input": "Say hi", "max_output_tokens": 5, "temperature": 0, **more}
    return Case(f"responses {name}", RESPONSES, body, own, status=status)


def message(name: str, status: int | None = 200, /, **more: Any) -> Case:
    own = more.pop("own", None)
    messages = [{"role": "user", "content": "Say hi"}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 5, "temperature": 0, **more}
    return Case(f"messages {name}", MESSAGES, body, own, status=status)


def other(name: str, path: str, status: int | None = 200, /, **body: Any) -> Case:
    own = body.pop("own", None)
    return Case(f"{path} {name}", path, {"model": MODEL, **body}, own, status=status)


def pool(name: str, path: str, status: int | None = 200, /, **body: Any) -> Case:
    own = body.pop("own", None)
    return Case(f"{path} {name}", path, {"model": POOL, **body}, own, status=status)


def user(text: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": text}]


TWO_CHATS: Final = [user("Say hi"), user("And now?")]

COMPLETION_CASES: Final = (
    complete("plain"),
    complete("stream", **STREAM),
    complete("stream of one token", max_tokens=1, **STREAM),
    complete("stream with usage", **STREAM, **USAGE),
    complete("stream, usage declined", **STREAM, stream_options={"include_usage": False}),
    complete("stream, no options", **STREAM, stream_options=None),
    complete("stream, empty options", **STREAM, stream_options={}),
    complete(
        "stream with usage in every event",
        **STREAM,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    ),
    complete(
        "stream, usage in every event, but none at the end",
        **STREAM,
        stream_options={"include_usage": False, "continuous_usage_stats": True},
    ),
    complete("stream options without a stream", 400, **USAGE),
    complete("stream options of a wrong type", 400, **STREAM, stream_options=5),
    complete(
        "stream options that are no booleans",
        **STREAM,
        stream_options={"include_usage": "false"},
        own=BAD_SIZE,
    ),
    complete("no stream", stream=False),
    complete("null for a stream", stream=None),
    complete("default limit", max_tokens=None),
    complete("to its own end", max_tokens=40, prompt="The capital of France is"),
    complete("several prompts", prompt=["One", "Two", "Three"]),
    complete("several prompts, stream", prompt=["One", "Two"], **STREAM, choices=True),
    complete("token ids", prompt=[19556, 957]),
    complete("lists of token ids", prompt=[[19556, 957], [504]]),
    complete("two choices", n=2, temperature=0.9, seed=7),
    complete("two choices, stream", n=2, temperature=0.9, seed=7, **STREAM, choices=True),
    complete("two choices, usage", n=2, temperature=0.9, seed=7, **STREAM, **USAGE, choices=True),
    complete("two greedy choices", 400, n=2),
    complete("a seed", temperature=1.0, seed=3, top_p=0.9, top_k=20),
    complete("stop", stop=" ", max_tokens=20),
    complete("stop list, stream", stop=["fast", "a"], max_tokens=20, **STREAM),
    complete("stop kept", stop=["a"], include_stop_str_in_output=True, max_tokens=20),
    complete("echo", echo=True),
    complete("echo, stream", echo=True, **STREAM),
    complete("echo without generating", echo=True, max_tokens=0),
    complete("logprobs", logprobs=2),
    complete("logprobs, stream", logprobs=1, **STREAM),
    complete("logit bias", logit_bias={"198": 5}),
    complete("logit bias for a word", 400, logit_bias={"word": 5}),
    complete("token ids told", return_token_ids=True),
    complete("penalties", presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.1),
    complete("ignoring the end", ignore_eos=True, min_tokens=5),
    complete("best_of, which engines ignore", best_of=2),
    complete("a choice", structured_outputs={"choice": ["yes", "no"]}),
    complete(
        "a schema", response_format={"type": "json_schema", "json_schema": {"name": "s",
        "schema": SCHEMA}}, max_tokens=60,
    ),
    complete("guided decoding of old", guided_choice=["yes", "no"]),
    complete("unknown parameters", zork=1, another={"deep": [1, {"x": None}]}),
    complete("a user", user="me", metadata={"a": "b"}),
    complete("unicode", prompt="Grüße, 世界 🌍 \u0000 \u2028"),
    complete("unicode, stream", prompt="Grüße, 世界 🌍", **STREAM),
    complete("markers of streams in the text", prompt='data: [DONE]\n\n{"error": 1}', echo=True,
             **STREAM),
    complete("half a surrogate pair", 400, prompt="\ud800", own=BAD_JSON),
    complete("a temperature below zero", 400, temperature=-1),
    complete("a temperature of a wrong type", 400, temperature="hot"),
    complete("top_p beyond one", 400, top_p=1.5),
    complete("too many logprobs", 400, logprobs=50),
    complete("an empty stop", 400, stop=""),
    complete("more tokens than the context", 400, max_tokens=5000),
    complete("no tokens", 400, max_tokens=0),
    complete("too long a prompt", 400, prompt=LONG),
    complete("too long a prompt, stream", 400, prompt=LONG, **STREAM),
    complete("a suffix", 400, suffix="end"),
    complete("an unknown response format", 400, response_format={"type": "xml"}),
    complete("a seed of a wrong type", 400, seed="x"),
    complete("an empty prompt", 400, prompt=""),
    complete("another model", 404, model="other", own=UNKNOWN_MODEL),
    complete("no model", model=None, own=BAD_MODEL),
    complete("a model of a wrong type", None, model=7, own=BAD_MODEL),
    complete("no prompt", 400, prompt=None),
    complete("an empty list of prompts", 400, prompt=[]),
    complete("a prompt of a wrong type", 400, prompt=7, own=BAD_SIZE),
    complete("prompts of two types", 400, prompt=[1, "a"], own=BAD_SIZE),
    complete("a limit in quotes", max_tokens="5", own=BAD_SIZE),
    complete("a limit below zero", 400, max_tokens=-1, own=BAD_SIZE),
    complete("half a token", 400, max_tokens=0.5, own=BAD_SIZE),
    complete("a stream in quotes", stream="true", own=BAD_SIZE),
    complete("no choices", 400, n=0, own=BAD_SIZE),
    complete("a great many choices", None, n=100_000, own=BAD_SIZE),
    Case("completions no JSON", COMPLETIONS, b'{"model": ', BAD_JSON, status=400),
    Case("completions a list", COMPLETIONS, b"[]", BAD_JSON, status=400),
    Case("completions bad UTF-8", COMPLETIONS, b'{"model":"tiny","prompt":"\xff"}', BAD_JSON,
         status=400),
    Case("completions no body", COMPLETIONS, b"", BAD_JSON, status=400),
    Case("completions a text", COMPLETIONS, b"{}", NO_JSON_TYPE, content_type="text/plain",
         status=400),
    Case("completions by GET", COMPLETIONS, None, WRONG_METHOD, method="GET", status=405),
    Case("completions a key twice", COMPLETIONS,
         b'{"model":"other","model":"tiny","prompt":"Hi","max_tokens":2,"temperature":0}',
         status=200),
    Case("completions white space", COMPLETIONS,
         b'\n { "stream" : true , "model" : "tiny" , "prompt" : "Hi" , "temperature" : 0 } \r\n ',
         status=200),
    Case("completions with a charset", COMPLETIONS,
         json.dumps({"model": MODEL, "prompt": "Hi", "max_tokens": 1, "temperature": 0}).encode(),
         content_type="application/json; charset=utf-8", status=200),
)  # fmt: skip

CHAT_CASES: Final = (
    chat("plain"),
    chat("stream", **STREAM),
    chat("stream with usage", **STREAM, **USAGE),
    chat(
        "stream with usage in every event",
        **STREAM,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    ),
    chat("stream to its own end", max_tokens=100, **STREAM),
    chat("no limit", max_tokens=None),
    chat("max_completion_tokens", max_tokens=None, max_completion_tokens=3),
    chat("two choices", n=2, temperature=0.9, seed=7),
    chat("two choices, stream", n=2, temperature=0.9, seed=7, **STREAM, choices=True),
    chat("logprobs", logprobs=True, top_logprobs=2),
    chat("logprobs, stream", logprobs=True, top_logprobs=1, **STREAM),
    chat("top_logprobs alone", 400, top_logprobs=2),
    chat("parts", messages=user([{"type": "text", "text": "Say hi"}])),
    chat("a system message", messages=[{"role": "system", "content": "Be brief"}, *user("Hi")]),
    chat("an answer before", messages=[*user("Hi"), {"role": "assistant", "content": "Hello"},
                                       *user("And now?")]),
    chat("unicode", messages=user("Grüße, 世界 🌍")),
    chat("an empty text", messages=user("")),
    chat("an image", 400, messages=user([{"type": "image_url", "image_url": {"url": "x"}}])),
    chat("a schema", max_tokens=60, response_format={
        "type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}),
    chat("a schema, stream", max_tokens=60, **STREAM, response_format={
        "type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}),
    chat("a schema without a schema", 400, response_format={"type": "json_schema"}),
    chat("tools without a parser", 400, tools=[TOOL]),
    chat("a tool by name without a parser", 400, tools=[TOOL],
         tool_choice={"type": "function", "function": {"name": "f"}}),
    chat("tools declined", tools=[TOOL], tool_choice="none"),
    chat("stop", stop=["a", "e"], max_tokens=30),
    chat("a template", 400, chat_template="{{ messages }}"),
    chat("too long", 400, messages=user(LONG)),
    chat("too long, stream", 400, messages=user(LONG), **STREAM),
    chat("a message without a role", 400, messages=[{"content": "Hi"}]),
    chat("a temperature beyond two", 400, temperature=3),
    chat("another model", 404, model="other", own=UNKNOWN_MODEL),
    chat("no messages", 400, messages=[]),
    chat("messages of a wrong type", 400, messages="Hi", own=BAD_SIZE),
    chat("a message of a wrong type", 400, messages=["Hi"], own=BAD_SIZE),
)  # fmt: skip

BATCH_CASES: Final = (
    batch("plain"),
    batch("one conversation", messages=[user("Say hi")]),
    batch("more than the replica takes at once", messages=[user(f"Hi {at}") for at in range(20)]),
    batch("conversations of several messages", messages=[
        [{"role": "system", "content": "Be brief"}, *user("Hi")],
        [*user("Hi"), {"role": "assistant", "content": "Hello"}, *user("And now?")]]),
    batch("no stream", stream=False),
    batch("no limit", max_tokens=None),
    batch("max_completion_tokens", max_completion_tokens=3),
    batch("one choice", n=1),
    batch("seed", temperature=0.9, seed=7),
    batch("logprobs", logprobs=True, top_logprobs=1),
    batch("token ids told", return_token_ids=True),
    batch("stop", stop=["a", "e"], max_tokens=30),
    batch("a schema", max_tokens=60, response_format={
        "type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}),
    batch("tools, which no prompt has", tools=[TOOL]),
    batch("a user", user="me", request_id="abc"),
    # Engines take it: they answer whole, and tell the usage of the last piece alone.
    batch("stream", **STREAM, own=BAD_SIZE),
    batch("stream options without a stream", 400, **USAGE),
    batch("two choices", 400, n=2),
    batch("beam search", 400, use_beam_search=True),
    batch("tools wanted", 400, tools=[TOOL], tool_choice="auto"),
    batch("an empty conversation", 400, messages=[user("Hi"), []]),
    batch("no conversations", 400, messages=[]),
    batch("null for conversations", 400, messages=None),
    batch("one conversation too long", 400, messages=[user("Hi"), user(LONG)]),
    batch("more tokens than the context", 400, max_tokens=5000),
    batch("a message without a role", 400, messages=[[{"content": "Hi"}]]),
    batch("an image", 400, messages=[user([{"type": "image_url", "image_url": {"url": "x"}}])]),
    batch("a temperature beyond two", 400, temperature=3),
    batch("another model", 404, model="other", own=UNKNOWN_MODEL),
    batch("a flat conversation", 400, messages=user("Hi"), own=BAD_SIZE),
    batch("a conversation of a wrong type", 400, messages=["Hi"], own=BAD_SIZE),
    batch("a message of a wrong type", 400, messages=[["Hi"]], own=BAD_SIZE),
    batch("a great many conversations", None, messages=[user("Hi")] * 2_049, own=BAD_SIZE),
    Case("batch by GET", BATCH, None, WRONG_METHOD, method="GET", status=405),
)  # fmt: skip

RESPONSES_CASES: Final = (
    respond("plain"),
    respond("stream", **STREAM),
    respond("stream to its own end", **STREAM, max_output_tokens=100),
    respond("no limit", max_output_tokens=None),
    respond("items", input=user("Say hi")),
    respond("parts", input=user([{"type": "input_text", "text": "Say hi"}]), instructions="Short"),
    respond("a schema", max_output_tokens=60,
            text={"format": {"type": "json_schema", "name": "s", "schema": SCHEMA}}),
    respond("logprobs", include=["message.output_text.logprobs"], top_logprobs=1),
    respond("metadata", metadata={"a": "b"}, user="me"),
    respond("unicode, stream", input="Grüße, 世界 🌍", **STREAM),
    respond("an earlier answer", 404, previous_response_id="resp_1"),
    respond("in the background", 400, background=True),
    respond("a temperature below zero", 400, temperature=-1),
    respond("a temperature below zero, stream", 400, temperature=-1, **STREAM),
    respond("too long", 400, input=LONG),
    respond("too long, stream", 400, input=LONG, **STREAM),
    respond("more tokens than the context", 400, max_output_tokens=5000),
    respond("another model", 404, model="other", own=UNKNOWN_MODEL),
    respond("no input", 400, input=None),
    respond("input of a wrong type", 400, input=5, own=BAD_SIZE),
    respond("a limit of a wrong type", 400, max_output_tokens="many", own=BAD_SIZE),
)  # fmt: skip

MESSAGES_CASES: Final = (
    message("plain"),
    message("stream", **STREAM),
    message("stream to its own end", **STREAM, max_tokens=100),
    message("to its own end", max_tokens=100),
    message("a system prompt", system="Be brief"),
    message("blocks", messages=user([{"type": "text", "text": "Say hi"}])),
    message("a stop sequence", stop_sequences=["a", "e"], max_tokens=30),
    message("a stop sequence, stream", stop_sequences=["a", "e"], max_tokens=30, **STREAM),
    message("unicode, stream", messages=user("Grüße, 世界 🌍"), **STREAM),
    message("no limit", 400, max_tokens=None),
    message("a limit of nothing", 400, max_tokens=0),
    message("more tokens than the context", 400, max_tokens=5000),
    message("a temperature below zero", 400, temperature=-1),
    message("a temperature of a wrong type", 400, temperature="hot"),
    message("an unknown role", 400, messages=[{"role": "wizard", "content": "Hi"}]),
    message("tools without a parser", 400, tools=[{"name": "f", "input_schema": SCHEMA}]),
    message("too long", 400, messages=user(LONG)),
    message("too long, stream", 400, messages=user(LONG), **STREAM),
    message("another model", 404, model="other", own=UNKNOWN_MODEL),
    message("no messages", 400, messages=[]),
    other("count", "/v1/messages/count_tokens", messages=user("Say hi")),
    other("count of nothing", "/v1/messages/count_tokens", 400),
)

TOKEN_CASES: Final = (
    other("text", "/tokenize", prompt="Hello world"),
    other("words, too", "/tokenize", prompt="Grüße, 世界 🌍", return_token_strs=True),
    other("chat", "/tokenize", messages=user("Say hi")),
    other("empty", "/tokenize", prompt=""),
    other("nothing", "/tokenize", 400),
    other("a number", "/tokenize", 400, prompt=5, own=BAD_SIZE),
    other("tokens", "/detokenize", tokens=[19556, 905]),
    other("no tokens", "/detokenize", tokens=[]),
    other("nothing", "/detokenize", 400),
    other("words", "/detokenize", 400, tokens="Hello"),
    other("below zero", "/detokenize", 400, tokens=[-1]),
    other("another model", "/tokenize", 404, model="other", prompt="Hi", own=UNKNOWN_MODEL),
)

GENERATING_CASES: Final = (
    *COMPLETION_CASES,
    *CHAT_CASES,
    *BATCH_CASES,
    *RESPONSES_CASES,
    *MESSAGES_CASES,
    *TOKEN_CASES,
    other("of a generating model", EMBEDDINGS, 404, input="Hi", own=NO_ROUTE),
    other("of a generating model", "/score", 404, text_1="a", text_2="b", own=NO_ROUTE),
    other("of a generating model", "/rerank", 404, query="a", documents=["b"], own=NO_ROUTE),
    Case("an admin's route", "/v1/load_lora_adapter", {}, UNKNOWN_URL),
    Case("metrics", "/metrics", None, UNKNOWN_URL, method="GET", status=200),
)

POOLING_CASES: Final = (
    pool("a text", EMBEDDINGS, input="Hello world"),
    pool("texts", EMBEDDINGS, input=["Hello", "world"]),
    pool("token ids", EMBEDDINGS, input=[19556, 905]),
    pool("lists of token ids", EMBEDDINGS, input=[[19556, 905], [504]]),
    pool("base64", EMBEDDINGS, input="Hello", encoding_format="base64"),
    pool("bytes", EMBEDDINGS, input=["Hello", "world"], encoding_format="bytes"),
    pool("bytes only", EMBEDDINGS, input="Hello", encoding_format="bytes_only"),
    pool("a chat", EMBEDDINGS, messages=user("Hello")),
    pool("unicode", EMBEDDINGS, input="Grüße, 世界 🌍", user="me"),
    pool("cut", EMBEDDINGS, input=LONG, truncate_prompt_tokens=8),
    pool("dimensions", EMBEDDINGS, 400, input="Hello", dimensions=8),
    pool("too long", EMBEDDINGS, 400, input=LONG),
    pool("an empty text", EMBEDDINGS, 400, input=""),
    pool("an unknown encoding", EMBEDDINGS, 400, input="Hello", encoding_format="zip"),
    pool("nothing", EMBEDDINGS, 400),
    pool("an empty list", EMBEDDINGS, 400, input=[]),
    pool("a number", EMBEDDINGS, 400, input=5, own=BAD_SIZE),
    pool("another model", EMBEDDINGS, 404, model="other", input="Hello", own=UNKNOWN_MODEL),
    pool("a text", "/pooling", input="Hello world"),
    pool("another task", "/pooling", 400, input="Hello", task="token_embed"),
    pool("one to many", "/score", text_1="Hello", text_2=["world", "Hello you"]),
    pool("many to many", "/v1/score", text_1=["a", "b"], text_2=["c", "d"]),
    pool("queries", "/v1/score", queries="Hello", documents=["world", "you"]),
    pool("two to three", "/score", 400, text_1=["a", "b"], text_2=["c", "d", "e"]),
    pool("half", "/score", 400, text_1="a"),
    pool("documents", "/rerank", query="Hello", documents=["world", "Hello you", "fast"], top_n=2),
    pool("documents", "/v1/rerank", query="Hello", documents=["world", "Hello you"]),
    pool("documents", "/v2/rerank", query="Hello", documents=["world"]),
    pool("no documents", "/rerank", 400, query="Hello"),
    pool("text of a pooling model", "/tokenize", prompt="Hello world"),
    pool("of a pooling model", COMPLETIONS, 404, prompt="Hello", own=NO_ROUTE),
    pool("of a pooling model", CHAT, 404, messages=user("Hello"), own=NO_ROUTE),
    pool("of a pooling model", BATCH, 404, messages=[user("Hello")], own=NO_ROUTE),
)

CLASSIFYING_CASES: Final = tuple(
    Case(f"/classify {name}", "/classify", {"model": CLASSIFIER, **body}, own, status=status)
    for name, body, status, own in (
        ("a text", {"input": "Hello"}, 200, None),
        ("texts", {"input": ["Hello", "world"]}, 200, None),
        ("a chat", {"messages": user("Hello")}, 200, None),
        ("too long", {"input": LONG}, 400, None),
        ("nothing", {}, 400, None),
        ("another model", {"model": "other", "input": "Hello"}, 404, UNKNOWN_MODEL),
    )
)
