"""Answers OpenAI's responses API as a vLLM without a store does."""

import contextlib
import dataclasses
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

from partitiond.simulated.engine.completions import chat_logprob, event
from partitiond.simulated.engine.engine import SimulatedEngine
from partitiond.simulated.engine.generation import Generation, answers_to, read_sampling
from partitiond.simulated.engine.refusals import (
    RefusedError,
    check_model,
    flag,
    invalid,
    missing,
    number,
    refused,
    whole,
)
from partitiond.simulated.engine.requests import content_text, message_texts, text_ids
from partitiond.simulated.engine.structured import constrained_text

OUTPUT_LOGPROBS = "message.output_text.logprobs"
ECHOED = ("instructions", "metadata", "max_output_tokens", "max_tool_calls", "prompt", "user")
"""Fields of the request that its answer repeats unchanged."""


def read_response(body: Mapping[str, Any], model: str, max_model_len: int) -> Generation:
    """Check a request. Raises RefusedError with vLLM's status and type."""
    stream = flag(body, "stream")
    prompt = _prompt(body, model)
    check_model(body, model)
    _refuse_stored(body)
    wanted = body.get("text")
    form = wanted.get("format") if isinstance(wanted, dict) else None
    sampling = dataclasses.replace(
        read_sampling(body, limits=("max_output_tokens",), max_model_len=max_model_len),
        n=1,
        constrained=constrained_text({"response_format": form}),
    )
    told = OUTPUT_LOGPROBS in (body.get("include") or ())
    return Generation(
        prompts=(prompt,),
        answers=answers_to((prompt,), sampling, max_model_len),
        stream=stream,
        logprobs=(whole(body, "top_logprobs") or 0) if told else None,
    )


def _prompt(body: Mapping[str, Any], model: str) -> tuple[int, ...]:
    given = body.get("input")
    if given is None:
        raise missing("input", body)
    if isinstance(given, str):
        texts = [f"user: {given}\n"]
    elif not isinstance(given, list):
        raise invalid("string_type", "input", "Input should be a valid string", given)
    else:
        messages = [item for item in given if isinstance(item, dict) and "role" in item]
        if not messages:
            message = "Cannot apply chat template to an empty conversation. "
            raise refused(f"{message}Provide at least one message.")
        texts = message_texts(messages, model, "input")
    instructions = content_text(body.get("instructions"), model, "instructions")
    system = [f"system: {instructions}\n"] if instructions else []
    return text_ids("".join(system + texts) + "assistant:")


def _refuse_stored(body: Mapping[str, Any]) -> None:
    """Refuse requests for which earlier answers would have to be stored."""
    previous = body.get("previous_response_id")
    if previous:
        message = f"Response with id '{previous}' not found."
        raise RefusedError(404, "invalid_request_error", message, "response_id")
    if flag(body, "background"):
        message = "This vLLM engine does not support `store=True` and therefore does not support "
        message += "the background mode."
        raise RefusedError(400, "invalid_request_error", message, "background")


def _number(body: Mapping[str, Any], field: str, default: float) -> float:
    value = number(body, field)
    return default if value is None else value


@dataclasses.dataclass(frozen=True, slots=True)
class ResponseReply:
    """Shapes the answers of one request."""

    id: str
    item_id: str
    created: int
    model: str
    body: Mapping[str, Any]
    generation: Generation

    @classmethod
    def new(
        cls, engine: SimulatedEngine, generation: Generation, body: Mapping[str, Any]
    ) -> "ResponseReply":
        """Make the reply for a request that arrives now; its id never comes from a header."""
        named = body.get("request_id") or f"resp_{uuid.uuid4().hex[:16]}"
        item = f"msg_{uuid.uuid4().hex[:16]}"
        return cls(str(named), item, int(time.time()), engine.model, body, generation)

    def response(self, *, done: bool) -> dict[str, Any]:
        """Return the response object, at its beginning and when it is done."""
        body, answer = self.body, self.generation.answers[0]
        cut = done and answer.finish_reason == "length"
        status = "incomplete" if cut else "completed" if done else "in_progress"
        tools = body.get("tools") or []
        return {
            "id": self.id,
            "created_at": self.created,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "model": self.model,
            "object": "response",
            "output": [self.item("completed", answer.text)] if done else [],
            "parallel_tool_calls": True,
            "temperature": _number(body, "temperature", 1.0),
            "tool_choice": body.get("tool_choice") or ("auto" if tools else "none"),
            "tools": tools,
            "top_p": _number(body, "top_p", 1.0),
            "background": False,
            "previous_response_id": None,
            "reasoning": None,
            "service_tier": "auto",
            "status": status,
            "text": body.get("text"),
            "top_logprobs": body.get("top_logprobs"),
            "truncation": body.get("truncation") or "disabled",
            "usage": self._usage() if done else None,
            "presence_penalty": _number(body, "presence_penalty", 0.0),
            "frequency_penalty": _number(body, "frequency_penalty", 0.0),
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "input_messages": None,
            "output_messages": None,
        } | {field: body.get(field) for field in ECHOED}

    def _usage(self) -> dict[str, Any]:
        prompt, output = self.generation.prompt_tokens, self.generation.output_tokens
        return {
            "input_tokens": prompt,
            "input_tokens_details": {
                "cached_tokens": 0,
                "cache_write_tokens": 0,
                "input_tokens_per_turn": [],
                "cached_tokens_per_turn": [],
            },
            "output_tokens": output,
            "output_tokens_details": {
                "reasoning_tokens": 0,
                "tool_output_tokens": 0,
                "output_tokens_per_turn": [],
                "tool_output_tokens_per_turn": [],
            },
            "total_tokens": prompt + output,
        }

    def part(self, text: str, *, begun: bool = False) -> dict[str, Any]:
        """Make one piece of content."""
        count = self.generation.logprobs
        logprobs: list[Any] | None = [] if begun else None
        if count is not None and text:
            logprobs = [chat_logprob(p, count) for p in self.generation.answers[0].pieces]
        return {"annotations": [], "text": text, "type": "output_text", "logprobs": logprobs}

    def item(self, status: str, text: str | None) -> dict[str, Any]:
        """Return the message; it has no content when it has only begun."""
        return {
            "id": self.item_id,
            "content": [] if text is None else [self.part(text)],
            "role": "assistant",
            "status": status,
            "type": "message",
            "phase": None,
        }

    def opening(self) -> list[tuple[str, dict[str, Any]]]:
        """Return events that are sent at once, before anything is generated."""
        begun = {"response": self.response(done=False)}
        return [("response.created", begun), ("response.in_progress", begun)]

    def first(self) -> list[tuple[str, dict[str, Any]]]:
        """Return events before the first text."""
        at = {"output_index": 0}
        content = {"content_index": 0, "item_id": self.item_id} | at
        return [
            ("response.output_item.added", {"item": self.item("in_progress", None)} | at),
            ("response.content_part.added", content | {"part": self.part("", begun=True)}),
        ]

    def delta(self, piece: str) -> dict[str, Any]:
        """Return the event of one token."""
        count = self.generation.logprobs
        told = [] if count is None else [chat_logprob(piece, count)]
        head = {"content_index": 0, "delta": piece, "item_id": self.item_id}
        return head | {"logprobs": told, "output_index": 0}

    def closing(self) -> list[tuple[str, dict[str, Any]]]:
        """Return events after the last text."""
        text = self.generation.answers[0].text
        content = {"content_index": 0, "item_id": self.item_id, "output_index": 0}
        done = {"item": self.item("completed", text), "output_index": 0}
        return [
            ("response.output_text.done", content | {"logprobs": [], "text": text}),
            ("response.content_part.done", content | {"part": self.part(text)}),
            ("response.output_item.done", done),
            ("response.completed", {"response": self.response(done=True)}),
        ]


async def stream(engine: SimulatedEngine, reply: ResponseReply) -> AsyncIterator[str]:
    """Yield named, numbered events. An engine that breaks cuts the answer off, as in vLLM."""
    count = 0

    def named(kind: str, fields: Mapping[str, Any]) -> str:
        nonlocal count
        numbered = {**fields, "sequence_number": count, "type": kind}
        count += 1
        return f"event: {kind}\n{event(numbered)}"

    for kind, fields in reply.opening():
        yield named(kind, fields)
    begun = False
    async with contextlib.aclosing(engine.tokens(reply.generation)) as made:
        async for _, position in made:
            if not begun:
                begun = True
                for kind, fields in reply.first():
                    yield named(kind, fields)
            piece = reply.generation.answers[0].pieces[position]
            yield named("response.output_text.delta", reply.delta(piece))
    for kind, fields in reply.closing():
        yield named(kind, fields)
