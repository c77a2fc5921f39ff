"""Reads keys of a `config.json`, and names the key that is missing or makes no sense."""

from collections.abc import Iterator, Mapping
from typing import Final

from partitiond.core.errors import SpecError

Config = Mapping[str, object]

PUBLISHED_HINT: Final = "Use the config.json that the model was published with."
MAX_LAYERS: Final = 1000
"""More layers than any model has; a larger number is a mistake, and counting would take long."""


_SHOWN_CHARACTERS: Final = 80


def shown(value: object) -> str:
    """Return a value as an error shows it; a long one is cut."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def bad(key: str, message: str, value: object = None, hint: str = PUBLISHED_HINT) -> SpecError:
    """Return the error about one key; its message names the key."""
    return SpecError(f"config key {key} {message}.", hint=hint, facts={"key": key, "value": value})


def _first(config: Config, keys: tuple[str, ...]) -> tuple[str, object]:
    """Return the first key that is set, of several names for one thing, and its value."""
    for key in keys:
        if config.get(key) is not None:
            return key, config[key]
    return keys[0], None


def whole(config: Config, *keys: str, default: int | None = None, least: int = 1) -> int:
    """Read a whole number of at least `least`; null takes the default, too, as in transformers.

    Args:
        config: the config.
        keys: the key, and other names that older configs give it.
        default: value if the key is missing or null.
        least: smallest value that makes sense.
    """
    key, value = _first(config, keys)
    if value is None:
        value = default
    if value is None:
        raise bad(key, "is missing")
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 10**9:
        kind = "positive whole number" if least else "whole number, 0 or more"
        raise bad(key, f"must be a {kind}, got {shown(value)}", value)
    return value


def largest(config: Config, *keys: str, default: int | None = None) -> int:
    """Read a whole number as `whole`, or the largest of a list of them, one for each layer."""
    key, value = _first(config, keys)
    listed = [one for one in value if isinstance(one, int)] if isinstance(value, list) else []
    return whole({key: max(listed)} if listed else {key: value}, key, default=default)


def flag(config: Config, key: str, default: bool) -> bool:
    """Read a switch; null takes the default."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise bad(key, f"must be true or false, got {shown(value)}", value)
    return value


def number(config: Config, key: str, default: float) -> float:
    """Read a positive number; null takes the default."""
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
        raise bad(key, f"must be a positive number, got {shown(value)}", value)
    return float(value)


def texts(config: Config, key: str) -> tuple[str, ...] | None:
    """Read a list of texts; None if it is missing or null."""
    value = config.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise bad(key, "must be a list of texts", value)
    return tuple(value)


def wholes(config: Config, key: str) -> tuple[int, ...] | None:
    """Read a list of whole numbers; None if it is missing or null."""
    value = config.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise bad(key, "must be a list of whole numbers", value)
    return tuple(value)


def section(config: Config, key: str) -> Config | None:
    """Read an object inside the config; None if it is missing or null."""
    value = config.get(key)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise bad(key, "must be an object", value)
    return value


def layer_count(config: Config, *keys: str) -> int:
    """Return the number of layers."""
    count = whole(config, *(keys or ("num_hidden_layers",)))
    if count > MAX_LAYERS:
        raise bad(keys[0] if keys else "num_hidden_layers", f"is {count}", count)
    return count


def head_dim(config: Config, hidden: int, heads: int) -> int:
    """Return `head_dim`, or hidden_size / num_attention_heads."""
    if config.get("head_dim") is not None:
        return whole(config, "head_dim")
    if hidden % heads:
        raise bad(
            "hidden_size",
            f"({hidden}) is no multiple of num_attention_heads ({heads})",
            hidden,
            "Give head_dim where they differ.",
        )
    return hidden // heads


def kv_heads(config: Config, heads: int, key: str = "num_key_value_heads") -> int:
    """Return KV heads; all heads if the config does not group them."""
    count = whole(config, key, default=heads)
    if heads % count:
        raise bad(key, f"({count}) does not divide num_attention_heads ({heads})", count)
    return count


def layer_types(config: Config, layers: int, key: str = "layer_types") -> tuple[str, ...] | None:
    """Return the kind of each layer, if the config lists them; else None."""
    types = texts(config, key)
    if types is None:
        return None
    if len(types) < layers:
        raise bad(key, f"lists {len(types)} layers of {layers}", len(types))
    return types[:layers]


def every(layers: int, interval: int) -> Iterator[bool]:
    """For each layer, whether it is the last of its group of `interval`."""
    return ((layer + 1) % interval == 0 for layer in range(layers))


_SCALED_ALREADY: Final = frozenset(
    {"default", "su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"}
)
"""Kinds of rotary scaling whose configs name the scaled length already, or have no factor."""


def scaled_positions(family: str, config: Config, positions: int) -> int:
    """Return the longest context of rotary positions that are stretched by a factor, as vLLM's
    `_get_and_verify_max_len`: linear and dynamic scaling multiply, others name the whole length.
    """
    scaling = section(config, "rope_parameters") or section(config, "rope_scaling")
    if not scaling or "gemma3" in family:
        return positions
    nested: list[Config] = [one for one in scaling.values() if isinstance(one, dict)]
    factor = 1.0
    for one in nested or [scaling]:
        kind = one.get("rope_type", one.get("type", "default"))
        if str(kind) not in _SCALED_ALREADY:
            factor = number(one, "factor", 1.0)
    return int(positions * factor)
