"""Bounds what layers of constant state keep of a sequence, by the keys of any family's config.

Source: the state shapes of vLLM 0.32 (`mamba_utils.MambaStateShapeCalculator`). A Mamba layer keeps
inner x state values and the last inputs of its convolution; a gated delta net keeps one matrix of
key x value for each head, and those inputs; Kimi's delta attention likewise.
"""

import dataclasses
from collections.abc import Iterator
from typing import Final

from partitiond.core.errors import SpecError
from partitiond.core.model.families.reading import Config, section, texts, whole, wholes

_SIGNS: Final = ("mamba", "ssm_", "linear_", "kda_", "rwkv", "recurrent", "hybrid_override_pattern")
"""Beginnings of keys that only configs of layers with a state have."""
_STATES: Final = ("linear", "mamba", "conv", "recurrent", "hybrid", "M")
_ATTENTIONS: Final = ("attention", "hybrid", "*")
"""Words in the kinds of layers that a config lists; "hybrid" is both in one."""
_BLOCK_TOKENS: Final = 16
_ALIKE: Final = 1.25
"""Two kinds of layers whose counts differ by less are padded to one group: vLLM's own constant."""


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """Layers of a hybrid.

    Attributes:
        values: of a sequence in one layer, in values of 16 bits.
        layers: that keep a state.
        attending: layers that keep something of each token.
    """

    values: int
    layers: int
    attending: int


def paged(state: State, kv_values: int) -> int:
    """Return the values of 16 bits that the engine sets aside for the state of a sequence.

    vLLM keeps states and keys in pages of one size, of whole blocks of tokens, in groups of equally
    many layers (`kv_cache_utils`, 0.32): each sequence has a page of each layer, those that attend
    included, whose first page its first tokens begin.

    Args:
        kv_values: what a layer that attends keeps of a token.
    """
    block = _BLOCK_TOKENS * kv_values
    page = -(-state.values // block) * block if state.attending else state.values
    few, many = sorted((state.layers, state.attending))
    group = many if many < _ALIKE * few else max(1, few)
    groups = -(-state.layers // group) - (-state.attending // group) if few else 1
    return page * (group * groups if few else many)


def state_of(text: Config, layers: int, hidden: int) -> State | None:
    """Return a bound of what a hybrid keeps of a sequence; None if no key speaks of a state.

    Raises:
        SpecError: a state is kept whose size no known key tells.
    """
    kinds = _kinds(text, layers)
    keys = [key for key in text if key.startswith(_SIGNS) and text[key] is not None]
    if not (keys or any(_is(kind, _STATES) for kind in kinds)):
        return None
    each = max(_mamba(text, hidden), _delta(text), _kimi(text))
    if not each:
        raise SpecError(
            f"the model keeps a state of each sequence whose size is not counted "
            f"(config keys {', '.join(keys) or 'of its kinds of layers'}).",
            hint="Use a model of a family of docs/reference/models.md.",
            facts={"keys": keys},
        )
    if not kinds:
        return State(each, layers, layers)
    attending = sum(_is(kind, _ATTENTIONS) and not kind.startswith("linear") for kind in kinds)
    return State(each, sum(_is(kind, _STATES) for kind in kinds), max(1, attending))


def _is(kind: str, words: tuple[str, ...]) -> bool:
    return any(word in kind for word in words)


def _kinds(text: Config, layers: int) -> tuple[str, ...]:
    """Return the kind of each layer, as the config lists them or by its pattern; () if unknown."""
    for key in ("layer_types", "layers_block_type"):
        if (listed := texts(text, key)) and len(listed) >= layers:
            return listed[:layers]
    pattern = text.get("hybrid_override_pattern")
    if isinstance(pattern, str) and len(pattern) >= layers:
        return tuple(pattern[:layers])
    attending = set(_attending(text, layers))
    if not attending:
        return ()
    return tuple("attention" if layer in attending else "mamba" for layer in range(layers))


def _attending(text: Config, layers: int) -> Iterator[int]:
    if indices := wholes(text, "attn_layer_indices"):
        yield from indices
    elif text.get("attn_layer_period") is not None:
        start = whole(text, "attn_layer_offset", default=0, least=0)
        yield from range(start, layers, whole(text, "attn_layer_period"))
    elif text.get("full_attention_interval") is not None:
        every = whole(text, "full_attention_interval")
        yield from range(every - 1, layers, every)


def _in_16_bits(text: Config, state: int, convolved: int) -> int:
    """Return values of a layer: the state in 32 bits, unless the config names another width."""
    named = str(text.get("mamba_ssm_dtype") or text.get("mamba_ssm_cache_dtype") or "float32")
    return state * (1 if named.endswith("16") else 2) + convolved


_HEAD_WIDTHS: Final = ("mamba_head_dim", "mamba_d_head", "mamba_headdim")
"""Names of the width of a head; "auto" leaves it to the expansion."""


def _mamba(text: Config, hidden: int) -> int:
    states = ("ssm_state_size", "mamba_d_state", "state_size")
    if all(text.get(key) is None for key in states):
        return 0
    state = whole(text, *states)
    heads = whole(text, "mamba_num_heads", "mamba_n_heads", "n_mamba_heads", default=0, least=0)
    width = {key: text[key] for key in _HEAD_WIDTHS if isinstance(text.get(key), int)}
    by_heads = heads * whole(width, *_HEAD_WIDTHS, default=0, least=0)
    expanded = hidden * whole(text, "mamba_expand", "expand", default=2)
    inner = max(by_heads, expanded, whole(text, "mamba_d_ssm", default=0, least=0))
    groups = whole(text, "n_groups", "mamba_n_groups", "mamba_ngroups", default=1)
    kernel = whole(text, "conv_kernel", "mamba_d_conv", default=4)
    return _in_16_bits(text, inner * state, (inner + 2 * groups * state) * (kernel - 1))


def _delta(text: Config) -> int:
    if text.get("linear_num_value_heads") is None:
        return 0
    values = whole(text, "linear_num_value_heads")
    wide = whole(text, "linear_value_head_dim", default=128)
    keys = whole(text, "linear_num_key_heads", default=values)
    deep = whole(text, "linear_key_head_dim", default=128)
    kernel = whole(text, "linear_conv_kernel_dim", default=4)
    convolved = (2 * keys * deep + values * wide) * (kernel - 1)
    return _in_16_bits(text, values * wide * deep, convolved)


def _kimi(text: Config) -> int:
    linear = section(text, "linear_attn_config")
    if linear is None:
        return 0
    heads, deep = whole(linear, "num_heads"), whole(linear, "head_dim")
    kernel = whole(linear, "short_conv_kernel_size", default=4)
    return _in_16_bits(text, heads * deep * deep, 3 * heads * deep * (kernel - 1))
