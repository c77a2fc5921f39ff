"""Workloads: request bodies of stated lengths, the same for the same seed.

Prompts are random, so that no prefix cache can answer them, and made of token ids where the
server takes them: then a prompt has exactly the length that was asked for. Text prompts are
random common words, about one token each; what the server counted is read from its usage.
"""

import dataclasses
import enum
import json
import random
from typing import Final

FIRST_TOKEN_ID: Final = 100
"""Lower ids are special tokens or single bytes in the usual tokenisers."""
LAST_TOKEN_ID: Final = 20_000
"""Below the vocabulary of every model worth measuring (the smallest in use have 32,000)."""

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
    """What a prompt is made of."""

    TOKENS = "tokens"
    TEXT = "text"


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """Shape of the requests: fixed lengths.

    Attributes:
        model: served model name.
        prompt_tokens: prompt length, in tokens (words for text prompts).
        output_tokens: output length, in tokens.
        ignore_eos: generate the full output even past an end-of-sequence token. A server that
            does not know the option ignores or refuses it.
        temperature: 0 is greedy.
        last_token_id: largest token id in prompts; keep it below the model's vocabulary.
    """

    model: str
    prompt_tokens: int = 512
    output_tokens: int = 256
    prompt_kind: PromptKind = PromptKind.TOKENS
    ignore_eos: bool = True
    temperature: float = 0.0
    last_token_id: int = LAST_TOKEN_ID
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.prompt_tokens, self.output_tokens) < 1:
            raise ValueError("prompt_tokens and output_tokens must be at least 1")


class RequestFactory:
    """Makes request bodies; the n-th body is a function of the workload and n alone."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload

    def body(self, index: int, output_tokens: int | None = None) -> bytes:
        """JSON of request `index`; `output_tokens` replaces the workload's for this one."""
        load = self.workload
        generator = random.Random(f"{load.seed}/{index}")  # noqa: S311 - not for secrets
        payload: dict[str, object] = {
            "model": load.model,
            "prompt": _prompt(load, generator),
            "max_tokens": output_tokens or load.output_tokens,
            "temperature": load.temperature,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        if load.ignore_eos:
            payload["ignore_eos"] = True
        return json.dumps(payload, separators=(",", ":")).encode()


def _prompt(load: Workload, generator: random.Random) -> str | list[int]:
    if load.prompt_kind is PromptKind.TEXT:
        return " ".join(generator.choices(_WORDS, k=load.prompt_tokens))
    low, high = min(FIRST_TOKEN_ID, load.last_token_id), load.last_token_id
    span = high - low + 1
    return [low + int(generator.random() * span) for _ in range(load.prompt_tokens)]
