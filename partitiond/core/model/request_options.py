"""Checks the options of a model's requests: other names, default parameters, limits.

Only the proxy acts on these options. They do not concern the engine, so they change while it runs.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from partitiond.core.checks import require
from partitiond.core.dispatch.routing import RequestLimits
from partitiond.core.model.workload import MAX_TOKENS
from partitiond.core.units import GIB

ALIAS_PATTERN: Final = re.compile(
    r"(?=.{1,128}\Z)[/@]?[A-Za-z0-9][A-Za-z0-9._:-]{0,127}(/[A-Za-z0-9][A-Za-z0-9._:-]{0,127}){0,63}"
)
"""Wider than a model's name, because clients have `org/Model-1B`, `model:1b`, `@org/family/model`
or a path, `/models/model`, built in."""
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
            "Use 1 to 128 letters, digits, '.', '_', ':' or '-', in parts that begin with a letter "
            "or digit and are joined by '/', as in 'org/Model-1B'; '/' or '@' may come first.",
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


_Form = tuple[str, Callable[[Any], bool]]


def _number(low: float, high: float) -> _Form:
    text = f"a number {'above 0' if low == 1e-9 else f'from {low}'} to {high}"
    return text, lambda value: type(value) in {int, float} and low <= value <= high


def _whole(low: int, high: int) -> _Form:
    text = f"a whole number from {low} to {high}"
    return text, lambda value: type(value) is int and low <= value <= high


def _list_of(kind: type, text: str, most: int = MAX_DEFAULT_ITEMS) -> _Form:
    return (
        f"a list of at most {most} {text}",
        lambda value: (
            isinstance(value, list | tuple)
            and len(value) <= most
            and all(type(item) is kind and item != "" for item in value)
        ),
    )


_STOPS: Final = _list_of(str, "texts that are not empty", 4)
_FLAG: Final[_Form] = "true or false", lambda value: isinstance(value, bool)
_FORMS: Final[Mapping[str, _Form]] = {
    "temperature": _number(0, 2),
    "top_p": _number(1e-9, 1),
    "min_p": _number(0, 1),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "repetition_penalty": _number(1e-9, 2),
    "top_k": _whole(-1, 2**31 - 1),
    "min_tokens": _whole(0, MAX_TOKENS),
    "truncate_prompt_tokens": _whole(-1, 2**63 - 1),
    "seed": _whole(-(2**63), 2**63 - 1),
    "prompt_logprobs": _whole(-1, 2**31 - 1),
    "top_logprobs": _whole(0, 20),
    "logprobs": (
        "true, false, or a whole number from -1",
        lambda value: isinstance(value, int) and value >= -1,
    ),
    "stop": (
        f"a text, or {_STOPS[0]}",
        lambda value: _STOPS[1]([value] if isinstance(value, str) else value),
    ),
    "bad_words": _list_of(str, "texts that are not empty"),
    "stop_token_ids": _list_of(int, "whole numbers"),
    "response_format": (
        'an object of the type "text" or "json_object", for a schema is too deep to be a default',
        lambda value: value in ({"type": "text"}, {"type": "json_object"}),
    ),
    **dict.fromkeys(("ignore_eos", "include_stop_str_in_output", "skip_special_tokens"), _FLAG),
}
"""What a parameter must be by OpenAI's API and by vLLM's `SamplingParams._verify_args` and request
classes, the narrower of both. A request with anything else is refused."""


def check_sampling(defaults: Mapping[str, Any]) -> None:
    """Raises SpecError for a default of a parameter that engines refuse.

    It is checked where a default is set, and not where a stored one is read.
    """
    for name in sorted(_FORMS.keys() & defaults.keys()):
        (wanted, takes), value = _FORMS[name], defaults[name]
        require(
            takes(value),
            f"the default of {name} must be {wanted}, got {json.dumps(value, default=str)[:40]}.",
            "Engines refuse every request with such a value.",
        )
    limits = [defaults[name] for name in _OUTPUT_LIMITS & defaults.keys()]
    most = min([limit for limit in limits if isinstance(limit, int)], default=MAX_TOKENS)
    least, n, heat = (defaults.get(name, 1) for name in ("min_tokens", "n", "temperature"))
    for refused, wanted in (
        (least > most, f"min_tokens must be at most {most}, as the limit of output tokens is"),
        (heat < 1e-5 and n != 1, "n must be 1 where the temperature is 0"),
        (
            defaults.get("top_logprobs") and not defaults.get("logprobs"),
            "top_logprobs needs one of logprobs beside it",
        ),
    ):
        require(not refused, f"the default of {wanted}.", "Engines refuse every request with both.")


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
