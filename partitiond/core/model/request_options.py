"""Checks the options of a model's requests: other names, default parameters, limits.

Only the proxy acts on these options. They do not concern the engine, so they change while it runs.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from partitiond.core.checks import require
from partitiond.core.dispatch.routing import RequestLimits
from partitiond.core.model.workload import MAX_TOKENS
from partitiond.core.units import GIB

ALIAS_PATTERN: Final = re.compile(
    r"(?=.{1,128}\Z)[A-Za-z0-9][A-Za-z0-9._:-]*(/[A-Za-z0-9][A-Za-z0-9._:-]*)?"
)
"""Wider than a model's name, because clients from elsewhere send `org/Model-1B` or `model:1b`."""
MAX_ALIASES: Final = 32
MAX_DEFAULTS: Final = 32
MAX_DEFAULTS_BYTES: Final = 4096
"""Default parameters are added to the body of every request that does not name them."""
MAX_DEFAULT_ITEMS: Final = 64
MAX_PROMPT_BYTES: Final = GIB
MAX_SEQUENCES: Final = 65_536

REQUEST_OWN: Final = frozenset(
    {
        "cache_salt", "conversation", "documents", "input", "messages", "metadata", "model",
        "previous_response_id", "prompt", "prompt_embeds", "prompt_token_ids", "queries", "query",
        "request_id", "safety_identifier", "session_id", "stream", "stream_options", "text_1",
        "text_2", "tokens", "user",
    }
)  # fmt: skip
"""Parameters that are the request itself, or tell its sender; a default of them makes no sense."""

_OUTPUT_LIMITS: Final = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})
_CHOICES: Final = frozenset({"n", "best_of"})
MAX_CHOICES: Final = 128
"""The largest `n` that the endpoint accepts."""

_PARAMETER: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


def check_aliases(name: str, aliases: Sequence[str]) -> None:
    """Raises SpecError for an alias that is no name, or appears twice."""
    require(
        len(aliases) <= MAX_ALIASES,
        f"{name} has {len(aliases)} aliases; at most {MAX_ALIASES} are allowed.",
        "Leave some out.",
    )
    for alias in aliases:
        require(
            bool(ALIAS_PATTERN.fullmatch(alias)),
            f"{alias[:140]!r} is no alias.",
            "Use 1 to 128 letters, digits, '.', '_', ':' or '-', a letter or digit first, and at "
            "most one '/', as in 'org/Model-1B'.",
        )
        require(
            alias != name and aliases.count(alias) == 1,
            f"the alias {alias!r} of {name} is its name, or is there twice.",
            "Give each further name once.",
        )


def check_defaults(defaults: Mapping[str, Any]) -> None:
    """Raises SpecError for default parameters that no request could have."""
    require(
        len(defaults) <= MAX_DEFAULTS,
        f"{len(defaults)} default parameters are more than {MAX_DEFAULTS}.",
        "Leave some out.",
    )
    for name, value in defaults.items():
        require(
            bool(_PARAMETER.fullmatch(name)),
            f"{name[:80]!r} is no parameter of a request.",
            "Use names of the OpenAI API or of vLLM, as temperature.",
        )
        require(
            name not in REQUEST_OWN,
            f"{name} can have no default: each request says it itself.",
            "Use parameters such as temperature, top_p, max_tokens or stop.",
        )
        require(
            _is_plain(value),
            f"the default of {name} is not a text, a finite number, true or false, a short list "
            "of them, or an object of them.",
            'As {"temperature": 0.2, "stop": ["\\n"], "chat_template_kwargs": {"x": true}}.',
        )
    size = len(defaults_json(defaults).encode())
    require(
        size <= MAX_DEFAULTS_BYTES,
        f"the default parameters take {size} bytes as JSON; at most {MAX_DEFAULTS_BYTES} are "
        "allowed.",
        "Shorten them: they are added to every request.",
    )


def check_defaults_fit(defaults: Mapping[str, Any], limits: RequestLimits) -> None:
    """Raises SpecError for a default that would get every request that uses it refused."""
    for names, most, limit in (
        (_OUTPUT_LIMITS, MAX_TOKENS, limits.max_output_tokens),
        (_CHOICES, MAX_CHOICES, limits.max_sequences),
    ):
        for name in sorted(names & defaults.keys()):
            value = defaults[name]
            require(
                type(value) is int and 1 <= value <= most,
                f"the default of {name} must be a whole number between 1 and {most}, "
                f"got {json.dumps(value)[:40]}.",
                f"As {name}=1, without quotes.",
            )
            require(
                not limit or value <= limit,
                f"the default of {name} is {value}, beyond the model's own limit of {limit}.",
                "Lower the default or raise the limit: requests that name none would be refused.",
            )


_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "temperature": (0, 2),
    "top_p": (1e-9, 1),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repetition_penalty": (1e-9, 2),
}
"""Bounds of sampling parameters: those of OpenAI's API and of vLLM's `SamplingParams`, the narrower
of both. A request beyond them is refused."""


def check_sampling(defaults: Mapping[str, Any]) -> None:
    """Raises SpecError for a default of a sampling parameter that engines refuse.

    It is checked where a default is set, and not where a stored one is read.
    """
    for name in sorted(_RANGES.keys() & defaults.keys()):
        (low, high), value = _RANGES[name], defaults[name]
        require(
            isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high,
            f"the default of {name} must be a number {'above 0' if low == 1e-9 else f'from {low}'} "
            f"to {high}, got {json.dumps(value)[:40]}.",
            "Engines refuse every request with such a value.",
        )


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return len(value) <= MAX_DEFAULT_ITEMS and all(
            isinstance(key, str) and _is_text(key) and _is_scalar(item)
            for key, item in value.items()
        )
    if isinstance(value, list | tuple):
        return len(value) <= MAX_DEFAULT_ITEMS and all(_is_scalar(item) for item in value)
    return _is_scalar(value)


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return _is_text(value)
    if isinstance(value, bool):
        return True
    if isinstance(value, int):
        return abs(value) < 2**63
    return isinstance(value, float) and math.isfinite(value)


def _is_text(value: str) -> bool:
    """Return whether the text can be sent: JSON can spell half of a surrogate pair, which UTF-8
    cannot.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def defaults_json(defaults: Mapping[str, Any]) -> str:
    """Write the defaults as in a routing table: one JSON object, or empty for none."""
    if not defaults:
        return ""
    return json.dumps(
        dict(defaults), ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False
    )


def check_request_limits(limits: RequestLimits) -> None:
    """Raises SpecError for a limit that is negative, or larger than anything could be."""
    for name, most in (
        ("max_prompt_bytes", MAX_PROMPT_BYTES),
        ("max_output_tokens", MAX_TOKENS),
        ("max_sequences", MAX_SEQUENCES),
    ):
        check_count(getattr(limits, name), name, most)


def check_count(value: int, name: str, most: int) -> None:
    """Raises SpecError unless the value is a whole number from 0, which is no limit, to `most`."""
    require(
        not isinstance(value, bool) and 0 <= value <= most,
        f"{name} must be between 0 and {most}, got {str(value)[:40]}.",
        "0 is no limit.",
    )
