"""Determines which layers see only a sliding window, by the rule of each family."""

import enum
from typing import Final

from partitiond.core.model.families.reading import Config, every, flag, layer_types, whole, wholes


class Rule(enum.Enum):
    """The rule for which layers slide if the config does not list `layer_types`."""

    NONE = enum.auto()
    """No layer, whatever `sliding_window` says."""
    ALL = enum.auto()
    """All layers, as in Mistral 7B (Jiang et al. 2023, section 2)."""
    SWITCH = enum.auto()
    """With `use_sliding_window`, the layers from `max_window_layers` on, as in Qwen2."""
    PATTERN = enum.auto()
    """All but the last layer of each group, as in Gemma 2 (groups of 2) and Gemma 3 (of 6)."""
    POSITIONLESS = enum.auto()
    """With `use_sliding_window`, the layers without rotary positions, as in SmolLM3."""


SLIDING_TYPES: Final = ("sliding_attention", "sliding_window_attention")
_CLASS_DEFAULT_TOKENS: Final = 4096
"""Default of `sliding_window` in the configuration classes of Gemma 2, Gemma 3, Cohere 2, EXAONE 4
and OLMo 3, for configs that leave it out (null means no window)."""


def windows(config: Config, layers: int, rule: Rule, interval: int = 0) -> tuple[int, int]:
    """Return tokens of the window, and number of layers that slide; (0, 0) if none does.

    Args:
        config: the config.
        layers: number of layers.
        rule: the rule of the family.
        interval: layers of one group, for rules that need it.
    """
    patterned = rule is Rule.PATTERN
    if patterned and "sliding_window" not in config:
        tokens = _CLASS_DEFAULT_TOKENS
    else:
        tokens = whole(config, "sliding_window", default=0, least=0)
    if not tokens or (rule in _SWITCHED and not flag(config, "use_sliding_window", False)):
        return 0, 0
    listed = layer_types(config, layers)
    if listed is not None:
        count = sum(kind in SLIDING_TYPES for kind in listed)
    else:
        count = _by_rule(config, layers, rule, interval)
    return (tokens, count) if count else (0, 0)


_SWITCHED: Final = (Rule.SWITCH, Rule.POSITIONLESS)


def _by_rule(config: Config, layers: int, rule: Rule, interval: int) -> int:
    match rule:
        case Rule.NONE:
            return 0
        case Rule.ALL:
            return layers
        case Rule.SWITCH:
            return max(0, layers - whole(config, "max_window_layers", default=28, least=0))
        case Rule.PATTERN:
            return layers - sum(every(layers, _interval(config, layers, interval)))
        case Rule.POSITIONLESS:
            rotary = wholes(config, "no_rope_layers")
            if rotary is not None:
                return sum(not turned for turned in rotary[:layers])
            return sum(every(layers, whole(config, "no_rope_layer_interval", default=4)))


def _interval(config: Config, layers: int, default: int) -> int:
    """`sliding_window_pattern`: a number, or letters as "LLLG"; 0 and null for no pattern."""
    pattern = config.get("sliding_window_pattern")
    if isinstance(pattern, str) and pattern:
        return len(pattern)
    if pattern is None and "sliding_window_pattern" in config:
        return layers + 1
    return whole(config, "sliding_window_pattern", default=default)
