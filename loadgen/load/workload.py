"""Makes request bodies of stated lengths, the same for the same seed.

Prompts are random, so that no prefix cache can answer them. They are made of token ids if the
server accepts these: a prompt then has exactly the length asked for. Text prompts are random
common words, about one token each; the server's own count is read from its usage.
"""

import dataclasses
import enum
import functools
import json
import math
import random
from array import array
from collections.abc import Mapping
from typing import Final

from loadgen.load.lengths import Lengths, fixed

FIRST_TOKEN_ID: Final = 100
"""Lower ids are special tokens or single bytes in the usual tokenisers."""
LAST_TOKEN_ID: Final = 20_000
"""Below the vocabulary of every model worth measuring (the smallest in use have 32,000 ids)."""
_DRAWS: Final = 1 << 16
"""Pieces are drawn by 16 random bits, many at once: a long prompt must not delay the sender."""

_WORDS: Final[tuple[str, ...]] = (
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world",
    "school", "state", "family", "student", "group", "country", "problem", "hand", "part",
    "place", "case", "week", "company", "system", "program", "question", "work", "night",
    "number", "point", "home", "water", "room", "mother", "area", "money", "story", "fact",
    "month", "lot", "right", "study", "book", "eye", "job", "word", "business", "issue",
    "side", "kind", "head", "house", "service", "friend", "father", "power", "hour", "game",
    "line", "end", "member", "law", "car", "city", "name", "president", "team", "minute",
)  # fmt: skip


class PromptKind(enum.StrEnum):
    """The material of a prompt."""

    TOKENS = "tokens"
    TEXT = "text"


class Endpoint(enum.StrEnum):
    """The endpoints that take load: two that generate and stream, three that read and pool."""

    COMPLETIONS = "completions"
    CHAT = "chat"
    """One user message of random words; this endpoint takes no token ids."""
    EMBEDDINGS = "embeddings"
    POOLING = "pooling"
    """vLLM's route that embedders and rerankers both have."""
    CLASSIFY = "classify"

    @property
    def path(self) -> str:
        """Path below the server's prefix."""
        return _PATHS[self]

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream of tokens; else it is one JSON document."""
        return self in (Endpoint.COMPLETIONS, Endpoint.CHAT)


_PATHS: Final = {
    Endpoint.COMPLETIONS: "v1/completions",
    Endpoint.CHAT: "v1/chat/completions",
    Endpoint.EMBEDDINGS: "v1/embeddings",
    Endpoint.POOLING: "pooling",
    Endpoint.CLASSIFY: "classify",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """Shape of the requests.

    Attributes:
        model: served model name.
        prompt_tokens: prompt length, in tokens (words for text prompts); unused with `lengths`.
        output_tokens: output length, in tokens; unused with `lengths`.
        ignore_eos: generate the full output even past an end-of-sequence token. A server without
            this option ignores or refuses it.
        temperature: 0 is greedy.
        last_token_id: largest token id in prompts; keep it below the model's vocabulary.
        lengths: distribution of the lengths; None sends `prompt_tokens` and `output_tokens`.
        extra: merged into every body, over the keys there: structured outputs, sampling.
        endpoint: where the requests go. An answer that is no stream counts, when it has come, as
            all of its output tokens at once.

    Raises:
        ValueError: a length or the last token id is below 1, or the temperature below 0.
    """

    model: str
    prompt_tokens: int = 512
    output_tokens: int = 256
    prompt_kind: PromptKind = PromptKind.TOKENS
    ignore_eos: bool = True
    temperature: float = 0.0
    last_token_id: int = LAST_TOKEN_ID
    seed: int = 0
    lengths: Lengths | None = None
    extra: Mapping[str, object] = dataclasses.field(default_factory=dict)
    endpoint: Endpoint = Endpoint.COMPLETIONS

    def __post_init__(self) -> None:
        if min(self.prompt_tokens, self.output_tokens) < 1:
            raise ValueError("prompt_tokens and output_tokens must be at least 1")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be at least 0, got {self.temperature:g}")
        if self.last_token_id < 1:
            raise ValueError(f"last_token_id must be at least 1, got {self.last_token_id}")

    @property
    def distribution(self) -> Lengths:
        """The lengths that are sent, fixed or drawn."""
        return self.lengths or fixed(self.prompt_tokens, self.output_tokens)


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One request to send: its body, the lengths it asks for, the stream it belongs to, and where
    it goes.
    """

    body: bytes
    prompt_tokens: int
    output_tokens: int
    stream: str = ""
    endpoint: Endpoint = Endpoint.COMPLETIONS


class RequestFactory:
    """Makes request bodies; the n-th body is a function of the workload and n alone."""

    def __init__(self, workload: Workload, stream: str = "") -> None:
        self.workload = workload
        self.stream = stream
        self.lengths = workload.distribution
        self._is_text = (
            workload.prompt_kind is PromptKind.TEXT or workload.endpoint is Endpoint.CHAT
        )
        low = min(FIRST_TOKEN_ID, workload.last_token_id)
        self._pieces = _words() if self._is_text else _token_ids(low, workload.last_token_id)
        self._before, self._between, self._after = self._frame()

    def request(self, index: int, output_tokens: int | None = None) -> Request:
        """Request `index`; `output_tokens` replaces the output length drawn for it."""
        prompt, drawn = self.lengths.pair(index, self.workload.seed)
        output = output_tokens or drawn
        text = self._prompt(index, prompt)
        endpoint = self.workload.endpoint
        length = str(output) if endpoint.streams else ""
        body = f"{self._before}{text}{self._between}{length}{self._after}"
        return Request(body.encode(), prompt, output, self.stream, endpoint)

    @property
    def models(self) -> str:
        """Name of the served model, for messages."""
        return repr(self.workload.model)

    def body(self, index: int, output_tokens: int | None = None) -> bytes:
        """JSON of request `index`."""
        return self.request(index, output_tokens).body

    def output_tokens(self, index: int) -> int:
        """Output length drawn for request `index`."""
        return self.lengths.pair(index, self.workload.seed)[1]

    def _prompt(self, index: int, tokens: int) -> str:
        """The prompt as its JSON text, without its quotes or brackets."""
        if self.lengths.blocks:
            return self._shared_prompt(index, tokens)
        return self._random_pieces(f"{self.workload.seed}/{index}", tokens)

    def _shared_prompt(self, index: int, tokens: int) -> str:
        """A prompt of blocks, each a function of its identity: equal prefixes stay equal."""
        lengths, parts, left = self.lengths, [], tokens
        for block in lengths.blocks[lengths.position(index, self.workload.seed)]:
            if left > 0:
                count = min(left, lengths.block_tokens)
                parts.append(self._random_pieces(f"{self.workload.seed}/block/{block}", count))
                left -= count
        if left > 0:
            parts.append(self._random_pieces(f"{self.workload.seed}/{index}", left))
        return (" " if self._is_text else ",").join(parts)

    def _random_pieces(self, seed: str, count: int) -> str:
        drawn = random.Random(seed).randbytes(2 * count)  # noqa: S311 - not for secrets
        joint = " " if self._is_text else ","
        return joint.join(map(self._pieces.__getitem__, array("H", drawn)))

    def _frame(self) -> tuple[str, str, str]:
        """The body's text before the prompt, up to the output length, and after it."""
        load = self.workload
        open_, close = ('"', '"') if self._is_text else ("[", "]")
        if not load.endpoint.streams:
            rest = json.dumps(dict(load.extra), separators=(",", ":"))[1:]
            joint = close if rest == "}" else close + ","
            return '{"model":' + json.dumps(load.model) + ',"input":' + open_, joint, rest
        payload: dict[str, object] = {
            "temperature": load.temperature,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        if load.ignore_eos:
            payload["ignore_eos"] = True
        payload.update(load.extra)
        rest = json.dumps(payload, separators=(",", ":"))[1:]
        head = '{"model":' + json.dumps(load.model)
        if load.endpoint is Endpoint.CHAT:
            head += ',"messages":[{"role":"user","content":' + open_
            close += "}]"
        else:
            head += ',"prompt":' + open_
        return head, close + ',"max_tokens":', "," + rest


@functools.cache
def _token_ids(low: int, high: int) -> tuple[str, ...]:
    return _filled(tuple(str(token) for token in range(low, high + 1)))


@functools.cache
def _words() -> tuple[str, ...]:
    return _filled(_WORDS)


def _filled(pieces: tuple[str, ...]) -> tuple[str, ...]:
    """The pieces repeated up to what 16 bits can index; some come once more than others."""
    return (pieces * (_DRAWS // len(pieces) + 1))[:_DRAWS]
