"""Answers Anthropic's messages API and its token count as vLLM does."""

import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from partitiond.simulated.engine.completions import event
from partitiond.simulated.engine.engine import BrokenError, SimulatedEngine
from partitiond.simulated.engine.generation import (
    Generation,
    answers_to,
    check_length,
    read_sampling,
)
from partitiond.simulated.engine.refusals import (
    RefusedError,
    check_model,
    flag,
    invalid,
    missing,
    refused,
    unknown_model,
    whole,
)
from partitiond.simulated.engine.requests import refuse_tools, text_ids

ROLES: Final = ("user", "assistant", "system")
CHOICES: Final = {"any": "required", "auto": "auto", "none": "none"}
"""Anthropic's tool choices by OpenAI's names."""


def error_body(error: RefusedError | BrokenError) -> dict[str, Any]:
    """Anthropic's shape of an error; errors of the request's schema keep OpenAI's shape."""
    if isinstance(error, RefusedError) and error.kind == "Bad Request":
        return error.body
    told = error.body["error"]
    return {"type": "error", "error": {"type": told["type"], "message": told["message"]}}


def read_message(body: Mapping[str, Any], model: str, max_model_len: int) -> Generation:
    """Check a request. Raises RefusedError with vLLM's status and type."""
    _check_fields(body, ("model", "messages", "max_tokens"))
    limit = whole(body, "max_tokens")
    if limit is None or limit <= 0:
        message = "Value error, max_tokens must be positive"
        raise invalid("value_error", "max_tokens", message, limit)
    stream = flag(body, "stream")
    prompt = _prompt(body, model)
    _refuse_tools(body)
    # vLLM turns the message into a chat request, so its errors name the chat's field.
    renamed = {**body, "max_completion_tokens": limit, "n": 1}
    sampling = read_sampling(
        renamed,
        limits=("max_completion_tokens",),
        max_model_len=max_model_len,
        stop_field="stop_sequences",
    )
    answers = answers_to((prompt,), sampling, max_model_len)
    return Generation(prompts=(prompt,), answers=answers, stream=stream)


def count_tokens(body: Mapping[str, Any], model: str, max_model_len: int) -> dict[str, Any]:
    """Answer how many tokens a prompt has. Raises RefusedError."""
    _check_fields(body, ("model", "messages"))
    prompt = _prompt(body, model)
    check_length(prompt, max_model_len)
    count = len(prompt)
    return {"input_tokens": count, "context_management": {"original_input_tokens": count}}


def _check_fields(body: Mapping[str, Any], fields: tuple[str, ...]) -> None:
    for field in fields:
        if body.get(field) is None:
            raise missing(field, body)
    if body["model"] == "":
        raise invalid("value_error", "model", "Value error, Model is required", "")


def _prompt(body: Mapping[str, Any], model: str) -> tuple[int, ...]:
    messages = body["messages"]
    if not isinstance(messages, list):
        raise invalid("list_type", "messages", "Input should be a valid list", messages)
    texts = [f"system: {_text(body['system'], 'system')}\n"] if body.get("system") else []
    for at, message in enumerate(messages):
        texts.append(_message_text(message, f"messages.{at}"))
    if body["model"] != model:
        raise unknown_model(body["model"], model)
    if not messages:
        message = "Cannot apply chat template to an empty conversation. "
        raise refused(f"{message}Provide at least one message.")
    check_model(body, model)
    return text_ids("".join(texts) + "assistant:")


def _message_text(message: object, field: str) -> str:
    if not isinstance(message, dict):
        raise invalid("model_type", field, "Input should be a valid dictionary", message)
    if "role" not in message:
        raise missing(f"{field}.role", message)
    if message["role"] not in ROLES:
        should = "Input should be 'user', 'assistant' or 'system'"
        raise invalid("literal_error", f"{field}.role", should, message["role"])
    if "content" not in message:
        raise missing(f"{field}.content", message)
    return f"{message['role']}: {_text(message['content'], f'{field}.content')}\n"


def _text(content: object, field: str) -> str:
    """Return the text of text blocks; the JSON of other blocks (tool results, thinking)."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise invalid("string_type", field, "Input should be a valid string", content)
    return "".join(
        str(block.get("text", "")) if block.get("type") == "text" else json.dumps(block)
        for block in content
    )


def _refuse_tools(body: Mapping[str, Any]) -> None:
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else None
    named = {"function": choice} if kind == "tool" else CHOICES.get(str(kind), "auto")
    refuse_tools({"tools": body.get("tools"), "tool_choice": named})


@dataclasses.dataclass(frozen=True, slots=True)
class MessageReply:
    """Shapes the answers of one request."""

    id: str
    model: str
    generation: Generation

    @property
    def _stop(self) -> dict[str, Any]:
        answer = self.generation.answers[0]
        if answer.stop_reason is not None:
            return {"stop_reason": "stop_sequence", "stop_sequence": answer.stop_reason}
        reason = "max_tokens" if answer.finish_reason == "length" else "end_turn"
        return {"stop_reason": reason, "stop_sequence": None}

    def _usage(self, output_tokens: int) -> dict[str, int]:
        return {"input_tokens": self.generation.prompt_tokens, "output_tokens": output_tokens}

    def whole(self) -> dict[str, Any]:
        """Return the answer of a request that is not streamed; absent fields are left out."""
        stop = {name: value for name, value in self._stop.items() if value is not None}
        content = [{"type": "text", "text": self.generation.answers[0].text}]
        head = {"id": self.id, "type": "message", "role": "assistant", "content": content}
        counted = self._usage(self.generation.output_tokens)
        return head | {"model": self.model} | stop | {"usage": counted}

    def start(self) -> dict[str, Any]:
        """Return the first event."""
        message: dict[str, Any] = {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage(0),
        }
        return {"type": "message_start", "message": message}

    def delta(self) -> dict[str, Any]:
        """Return the event that reports how the message ended, and the usage."""
        counted = self._usage(self.generation.output_tokens)
        return {"type": "message_delta", "delta": self._stop, "usage": counted}


def _named(fields: Mapping[str, Any]) -> str:
    return f"event: {fields['type']}\n{event(fields)}"


async def stream(engine: SimulatedEngine, reply: MessageReply) -> AsyncIterator[str]:
    """Yield named events: the message's start, its one block, its end. An error ends the stream."""
    pieces = reply.generation.answers[0].pieces
    begun = open_block = False
    try:
        async with contextlib.aclosing(engine.tokens(reply.generation)) as made:
            async for _, position in made:
                if not begun:
                    begun = True
                    yield _named(reply.start())
                if not pieces[position]:
                    continue
                if not open_block:
                    open_block = True
                    block = {"type": "text", "text": ""}
                    start = {"type": "content_block_start", "content_block": block, "index": 0}
                    yield _named(start)
                text = {"type": "text_delta", "text": pieces[position]}
                yield _named({"type": "content_block_delta", "delta": text, "index": 0})
    except BrokenError as error:
        told = {"type": "internal_error", "message": str(error)}
        yield _named({"type": "error", "error": told})
        return
    if open_block:
        yield _named({"type": "content_block_stop", "index": 0})
    yield _named(reply.delta())
    yield _named({"type": "message_stop"})
