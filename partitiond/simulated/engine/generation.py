"""Reads what a request asks to generate, and computes the whole answer beforehand. Pure.

It does not matter here by which API the request came; the modules of the APIs read their own fields
and shape the answers.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from partitiond.simulated.engine import tokens
from partitiond.simulated.engine.refusals import flag, number, refused, texts, whole


@dataclasses.dataclass(frozen=True, slots=True)
class Sampling:
    """Parameters of a generation.

    Attributes:
        max_tokens: limit on one sequence, or None for as many as the context has room for.
        n: sequences of each prompt.
        min_tokens: the sequence does not end by itself before this number.
        stops: texts that end the sequence; they are not part of the answer unless `keep_stop`.
    """

    max_tokens: int | None
    n: int = 1
    min_tokens: int = 0
    ignore_eos: bool = False
    stops: tuple[str, ...] = ()
    keep_stop: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """One sequence: the text of each of its tokens, and why it ends.

    Attributes:
        finish_reason: "length" or "stop".
        stop_reason: the text that stopped the sequence, if one did.
    """

    pieces: tuple[str, ...]
    ids: tuple[int, ...]
    finish_reason: str
    stop_reason: str | None = None

    @property
    def text(self) -> str:
        """The whole text of the sequence."""
        return "".join(self.pieces)


@dataclasses.dataclass(frozen=True, slots=True)
class Generation:
    """One request's work.

    Attributes:
        prompts: token ids of each prompt.
        answers: the `n` sequences of each prompt, in the order of the choices.
        stream: server-sent events are wanted.
        include_usage: the stream ends with an event that has the usage.
        continuous_usage: every event has the usage so far.
        logprobs: how many alternatives to report of each token; None for no log probabilities.
        echo: the prompt's text comes before the answer's.
        show_ids: the answer has token ids.
        tool: the function that the answer calls; empty for an answer in words.
    """

    prompts: tuple[tuple[int, ...], ...]
    answers: tuple[GeneratedAnswer, ...]
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    logprobs: int | None = None
    echo: bool = False
    show_ids: bool = False
    tool: str = ""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(map(len, self.prompts))

    @property
    def output_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(len(answer.pieces) for answer in self.answers)

    def prompt_of(self, index: int) -> tuple[int, ...]:
        """Return the prompt of one choice."""
        return self.prompts[index * len(self.prompts) // len(self.answers)]


def read_sampling(
    body: Mapping[str, Any],
    *,
    limits: Sequence[str],
    max_model_len: int,
    default_limit: int | None = None,
    stop_field: str = "stop",
) -> Sampling:
    """Check the fields that all generating APIs share. Raises RefusedError with vLLM's words.

    Args:
        limits: fields that name the limit on the output, the strongest first.
    """
    max_tokens = _max_tokens(body, limits, max_model_len, default_limit)
    min_tokens = whole(body, "min_tokens") or 0
    if max_tokens is not None and min_tokens > max_tokens:
        raise refused(
            f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {min_tokens}."
        )
    stops = texts(body, stop_field)
    if "" in stops:
        raise refused("stop cannot contain an empty string.")
    whole(body, "seed")
    _check_bias(body)
    return Sampling(
        max_tokens=max_tokens,
        n=_choices(body, _temperature(body)),
        min_tokens=min_tokens,
        ignore_eos=flag(body, "ignore_eos"),
        stops=stops,
        keep_stop=flag(body, "include_stop_str_in_output"),
    )


def _max_tokens(
    body: Mapping[str, Any], limits: Sequence[str], max_model_len: int, default: int | None
) -> int | None:
    for field in limits:
        value = whole(body, field)
        if value is None:
            continue
        if value > max_model_len:
            raise refused(
                f"{field}={value} cannot be greater than max_model_len={max_model_len}. Please "
                f"request fewer output tokens. (parameter={field}, value={value})",
                field,
            )
        if value < 1 and not (value == 0 and body.get("echo")):
            raise refused(
                f"max_tokens must be at least 1, got {value}. "
                f"(parameter=max_tokens, value={value})",
                "max_tokens",
            )
        return max(1, value)
    return default


def _temperature(body: Mapping[str, Any]) -> float | None:
    """Return the temperature; the neighbouring fields are checked as well."""
    temperature = number(body, "temperature")
    if temperature is not None and not 0 <= temperature <= 2:
        allowed = "non-negative" if temperature < 0 else "in [0, 2]"
        raise refused(
            f"temperature must be {allowed}, got {temperature}. "
            f"(parameter=temperature, value={temperature})",
            "temperature",
        )
    top_p = number(body, "top_p")
    if top_p is not None and not 0 < top_p <= 1:
        raise refused(
            f"top_p must be in (0, 1], got {top_p}. (parameter=top_p, value={top_p})", "top_p"
        )
    for field in ("presence_penalty", "frequency_penalty"):
        penalty = number(body, field)
        if penalty is not None and not -2 <= penalty <= 2:
            raise refused(f"{field} must be in [-2, 2], got {penalty}.")
    top_k = whole(body, "top_k")
    if top_k is not None and top_k < -1:
        raise refused(f"top_k must be 0 (disable), or at least 1, got {top_k}.")
    return temperature


def _check_bias(body: Mapping[str, Any]) -> None:
    bias = body.get("logit_bias")
    wrong = [k for k in bias if not str(k).isdecimal()] if isinstance(bias, dict) else []
    if wrong:
        message = (
            f"logit_bias contains key(s) that cannot be converted to integer token IDs: {wrong}"
        )
        raise refused(f"{message} (parameter=logit_bias, value={wrong})", "logit_bias")


def _choices(body: Mapping[str, Any], temperature: float | None) -> int:
    n = whole(body, "n")
    n = 1 if n is None else n
    if n < 1:
        raise refused(f"n must be at least 1, got {n}.")
    if n > 1 and temperature == 0 and not body.get("use_beam_search"):
        raise refused(f"n must be 1 when using greedy sampling, got {n}.")
    return n


def answers_to(
    prompts: Sequence[tuple[int, ...]], sampling: Sampling, max_model_len: int
) -> tuple[GeneratedAnswer, ...]:
    """Return the answers to some prompts. Raises RefusedError if a prompt is too long or empty."""
    for prompt in prompts:
        check_length(prompt, max_model_len)
    return tuple(
        _answer(prompt, choice, sampling, max(1, max_model_len - len(prompt)))
        for prompt in prompts
        for choice in range(sampling.n)
    )


def check_length(prompt: Sequence[int], max_model_len: int) -> None:
    """Refuse prompts that are empty or exceed the context."""
    if not prompt:
        raise refused("The decoder prompt cannot be empty")
    if len(prompt) > max_model_len:
        raise refused(
            f"This model's maximum context length is {max_model_len} tokens. However, your prompt "
            f"contains {len(prompt)} input tokens, which exceeds this limit even without any "
            "output tokens. Please reduce the length of the input prompt. "
            f"(parameter=input_tokens, value={len(prompt)})",
            "input_tokens",
        )


def _answer(prompt: tuple[int, ...], choice: int, sampling: Sampling, room: int) -> GeneratedAnswer:
    limit = room if sampling.max_tokens is None else min(room, sampling.max_tokens)
    natural = _natural_tokens(prompt)
    ends_itself = not sampling.ignore_eos and natural < limit
    count = max(natural, sampling.min_tokens) if ends_itself else limit
    ids = tokens.answer_ids(prompt, choice, count)
    answer = GeneratedAnswer(
        tuple(map(tokens.token_text, ids)), ids, "stop" if ends_itself else "length"
    )
    return _stopped(answer, sampling)


def _natural_tokens(prompt: tuple[int, ...]) -> int:
    """Return the length at which the answer ends by itself: 24 to 63 tokens, the same for the same
    prompt.
    """
    return 24 + int(hashlib.sha256(repr(prompt).encode()).hexdigest()[:4], 16) % 40


def _stopped(answer: GeneratedAnswer, sampling: Sampling) -> GeneratedAnswer:
    """Cut the answer at the first of its stop texts."""
    text = answer.text
    found = [(text.find(stop), stop) for stop in sampling.stops if stop in text]
    if not found:
        return answer
    at, stop = min(found)
    end = at + len(stop)
    starts = list(itertools.accumulate((len(p) for p in answer.pieces), initial=0))
    used = next(count for count, start in enumerate(starts) if start >= end)
    shown = end if sampling.keep_stop else at
    pieces = tuple(
        piece[: max(0, shown - start)]
        for piece, start in zip(answer.pieces[:used], starts, strict=False)
    )
    return GeneratedAnswer(pieces, answer.ids[:used], "stop", stop)
