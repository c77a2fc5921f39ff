"""Shapes completions and chat completions as vLLM does."""

import contextlib
import dataclasses
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from starlette.requests import Request

import partitiond
from partitiond.simulated.engine import tokens
from partitiond.simulated.engine.engine import BrokenError, SimulatedEngine
from partitiond.simulated.engine.generation import GeneratedAnswer, Generation

FINGERPRINT: Final = f"simulated-{partitiond.__version__}"
"""Stands for vLLM's fingerprint, which names its version and a hash of its configuration."""
DONE: Final = "data: [DONE]\n\n"
_LOGPROB: Final = -0.5
"""Log probability of the chosen token; its alternatives have less. Chosen."""


def request_id(request: Request, prefix: str, body: Mapping[str, Any] | None = None) -> str:
    """Return the answer's id: like vLLM, made from the request's id if the request has one."""
    named = request.headers.get("x-request-id") or (body or {}).get("request_id")
    return f"{prefix}-{named or uuid.uuid4().hex[:16]}"


def event(value: object) -> str:
    """Return one server-sent event, as pydantic writes its JSON."""
    return f"data: {json.dumps(value, separators=(',', ':'), ensure_ascii=False)}\n\n"


def usage(prompt_tokens: int, output_tokens: int) -> dict[str, int]:
    """Return the usage object, with its fields in vLLM's order."""
    total = prompt_tokens + output_tokens
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": total,
        "completion_tokens": output_tokens,
    }


NO_DETAILS: Final = {"prompt_tokens_details": None, "completion_tokens_details": None}
"""Further fields of `usage` in answers that are not streamed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """Shapes the answers of one request."""

    chat: bool
    id: str
    created: int
    model: str
    generation: Generation

    @classmethod
    def new(
        cls, engine: SimulatedEngine, generation: Generation, name: str, *, chat: bool
    ) -> "Reply":
        """Make the reply for a request that arrives now."""
        return cls(chat, name, int(time.time()), engine.model, generation)

    def head(self, *, chunk: bool) -> dict[str, Any]:
        """Return fields that all events and answers begin with."""
        kind = "text_completion"
        if self.chat:
            kind = "chat.completion.chunk" if chunk else "chat.completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def whole(self) -> dict[str, Any]:
        """Return the answer of a request that is not streamed."""
        generation = self.generation
        choice = self._chat_choice if self.chat else self._choice
        choices = [choice(index, answer) for index, answer in enumerate(generation.answers)]
        counted = usage(generation.prompt_tokens, generation.output_tokens) | NO_DETAILS
        shape = self.head(chunk=False) | {
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": counted,
        }
        if self.chat:
            shape |= {"prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None}
        return shape | {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}

    def _choice(self, index: int, answer: GeneratedAnswer) -> dict[str, Any]:
        generation = self.generation
        prompt = generation.prompt_of(index)
        before = tokens.decode(prompt) if generation.echo else ""
        return {
            "index": index,
            "text": before + answer.text,
            "logprobs": self._logprobs(answer.pieces, len(before)),
            "finish_reason": answer.finish_reason,
            "stop_reason": answer.stop_reason,
            "token_ids": list(answer.ids) if generation.show_ids else None,
            "prompt_logprobs": None,
            "prompt_token_ids": list(prompt) if generation.show_ids else None,
            "routed_experts": None,
        }

    def _chat_choice(self, index: int, answer: GeneratedAnswer) -> dict[str, Any]:
        absent = ("refusal", "annotations", "audio", "function_call", "reasoning")
        message = {"role": "assistant", "content": answer.text, **dict.fromkeys(absent)}
        if self.generation.tool:
            message |= {"content": None, "tool_calls": [self._tool_call(index)]}
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(answer.pieces, 0),
            "finish_reason": self._finish_reason(answer),
            "stop_reason": answer.stop_reason,
            "token_ids": list(answer.ids) if self.generation.show_ids else None,
            "routed_experts": None,
        }

    def _tool_call(self, index: int) -> dict[str, Any]:
        function = {"name": self.generation.tool, "arguments": "{}"}
        name = f"{self.id.replace('chatcmpl', 'chatcmpl-tool')}-{index}"
        return {"id": name, "type": "function", "function": function}

    def _finish_reason(self, answer: GeneratedAnswer) -> str:
        return "tool_calls" if self.generation.tool else answer.finish_reason

    def _logprobs(self, pieces: tuple[str, ...], offset: int) -> dict[str, Any] | None:
        count = self.generation.logprobs
        if count is None:
            return None
        if self.chat:
            return {"content": [chat_logprob(piece, count) for piece in pieces]}
        offsets = [offset + sum(map(len, pieces[:at])) for at in range(len(pieces))]
        return {
            "text_offset": offsets,
            "token_logprobs": [_LOGPROB] * len(pieces),
            "tokens": list(pieces),
            "top_logprobs": [_alternatives(piece, max(1, count)) for piece in pieces],
        }

    def role_chunk(self, index: int) -> dict[str, Any]:
        """Return the first event of a chat's choice."""
        delta = {"role": "assistant", "content": ""}
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        ids = list(self.generation.prompt_of(index)) if self.generation.show_ids else None
        chunk = self.head(chunk=True) | {"choices": [choice]}
        return chunk | self._usage_so_far(index, 0) | {"prompt_token_ids": ids, "prompt_text": None}

    def chunk(self, index: int, position: int) -> dict[str, Any]:
        """Return the event of one token."""
        generation = self.generation
        answer = generation.answers[index]
        last = position == len(answer.pieces) - 1
        first_of_echo = generation.echo and position == 0
        piece = answer.pieces[position]
        choice: dict[str, Any] = {"index": index}
        if generation.tool:  # all of the call at once; what follows is held back
            call = {"index": 0, **self._tool_call(index)}
            choice["delta"] = {"tool_calls": [call]} if position == 0 else {}
        elif self.chat:
            choice["delta"] = {"content": piece}
        else:
            before = tokens.decode(generation.prompt_of(index)) if first_of_echo else ""
            choice["text"] = before + piece
        told = generation.logprobs is not None
        offset = sum(map(len, answer.pieces[:position])) if told else 0
        choice["logprobs"] = self._logprobs((piece,), offset)
        choice["finish_reason"] = self._finish_reason(answer) if last else None
        if last or not self.chat:
            choice["stop_reason"] = answer.stop_reason if last else None
        if not self.chat:
            shown = first_of_echo or (generation.show_ids and position == 0)
            choice["prompt_token_ids"] = list(generation.prompt_of(index)) if shown else None
        choice["token_ids"] = [answer.ids[position]] if generation.show_ids else None
        chunk = self.head(chunk=True) | {"choices": [choice]}
        if last and not generation.include_usage:
            chunk["system_fingerprint"] = FINGERPRINT
        return chunk | self._usage_so_far(index, position + 1)

    def _usage_so_far(self, index: int, count: int) -> dict[str, Any]:
        if not self.generation.continuous_usage:
            return {}
        counted: dict[str, Any] = dict(usage(len(self.generation.prompt_of(index)), count))
        if self.chat:
            counted["completion_tokens_details"] = None
        return {"usage": counted}

    def usage_chunk(self) -> dict[str, Any]:
        """Return the usage event before the end of the stream, if it was asked for."""
        counted = usage(self.generation.prompt_tokens, self.generation.output_tokens)
        last = {"choices": [], "usage": counted, "system_fingerprint": FINGERPRINT}
        return self.head(chunk=True) | last


def _alternatives(piece: str, count: int) -> dict[str, float]:
    """Return the chosen token and others, each less likely than the one before."""
    others = (f" {word}" for word in tokens.WORDS if f" {word}" != piece)
    likely = [piece, *others][: max(1, count)]
    return {token: _LOGPROB - rank for rank, token in enumerate(likely)}


def chat_logprob(piece: str, count: int) -> dict[str, Any]:
    """Return one token's log probability and those of its alternatives, in the chat API's shape."""
    entries = [
        {"token": token, "logprob": value, "bytes": list(token.encode())}
        for token, value in _alternatives(piece, count).items()
    ]
    return entries[0] | {"top_logprobs": entries[:count]}


async def stream(engine: SimulatedEngine, reply: Reply) -> AsyncIterator[str]:
    """Yield one event per token, in the order of generation; then the usage, if asked for;
    [DONE].
    """
    generation = reply.generation
    begun = not reply.chat
    try:
        async with contextlib.aclosing(engine.tokens(generation)) as made:
            async for index, position in made:
                if not begun:
                    begun = True
                    for choice in range(len(generation.answers)):
                        yield event(reply.role_chunk(choice))
                yield event(reply.chunk(index, position))
        if generation.include_usage:
            yield event(reply.usage_chunk())
    except BrokenError as error:
        yield f"data: {json.dumps(error.body)}\n\n"
    yield DONE
