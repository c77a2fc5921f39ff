"""Counts Llama-like decoders: rotary positions, query, key, value and output matrices, an MLP.

They differ in biases, norms, the shape of the MLP, tied embeddings and sliding windows; a row of
`LAYOUTS` tells the differences. Rows follow the model classes of transformers, term by term.
"""

import dataclasses
import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from partitiond.core.model.families.blueprint import Blueprint, Matrix, output_matrix
from partitiond.core.model.families.reading import (
    Config,
    flag,
    head_dim,
    kv_heads,
    layer_count,
    whole,
)
from partitiond.core.model.families.windows import Rule, windows


class Bias(enum.Enum):
    """Which of the four attention matrices add a bias."""

    NONE = enum.auto()
    QKV = enum.auto()
    QKV_FLAG = enum.auto()
    """Queries, keys and values, if the config's switch is on."""
    ALL_FLAG = enum.auto()
    """All four, if the config's switch is on."""


class HeadNorm(enum.Enum):
    """Norms on queries and keys."""

    NONE = enum.auto()
    SHARED = enum.auto()
    """One norm of head_dim values for all heads, as in Qwen3."""
    FULL = enum.auto()
    """One value per query and key, as in OLMo 2."""


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """How a family differs from Llama.

    Attributes:
        bias: of attention; the config's switch `bias_key` decides if the bias depends on one.
        gated: the MLP has three matrices, not two.
        mlp_bias_key: config key of the switch for biases in the MLP; empty for none.
        head_norm: norms on queries and keys.
        head_norm_key: config key of the switch for these norms; empty if they are always there.
        norms: norms over the hidden state in each layer.
        norm_values: values of one norm per hidden value: 1, 2 with a bias, 0 without weights.
        tied: whether embeddings are tied if the config does not say.
        fused: query, key and value in one matrix, and gate and up in another.
        window, interval: the rule for sliding windows.
        names: replacements in module names, for families that name their modules otherwise.
        layers_key: another config key for num_hidden_layers.
        head_dim: used if the config has none; 0 for hidden_size / num_attention_heads.
    """

    bias: Bias = Bias.NONE
    bias_key: str = "attention_bias"
    gated: bool = True
    mlp_bias_key: str = ""
    head_norm: HeadNorm = HeadNorm.NONE
    head_norm_key: str = ""
    norms: int = 2
    norm_values: int = 1
    tied: bool = False
    fused: bool = False
    window: Rule = Rule.NONE
    interval: int = 0
    names: tuple[tuple[str, str], ...] = ()
    layers_key: str = "num_hidden_layers"
    head_dim: int = 0


_EXAONE_NAMES: Final = (
    ("model.layers", "transformer.h"),
    ("self_attn.o_proj", "attn.attention.out_proj"),
    ("self_attn", "attn.attention"),
    ("gate_proj", "c_fc_0"),
    ("up_proj", "c_fc_1"),
    ("down_proj", "c_proj"),
)
_INTERNLM2_NAMES: Final = (
    ("self_attn.qkv_proj", "attention.wqkv"),
    ("self_attn.o_proj", "attention.wo"),
    ("mlp.gate_up_proj", "feed_forward.w1"),
    ("mlp.down_proj", "feed_forward.w2"),
)
_GEMMA: Final = Layout(Bias.ALL_FLAG, tied=True, head_dim=256)

LAYOUTS: Final[Mapping[str, Layout]] = {
    "arcee": Layout(Bias.ALL_FLAG, gated=False, mlp_bias_key="mlp_bias"),
    "cohere": Layout(
        Bias.ALL_FLAG, head_norm=HeadNorm.FULL, head_norm_key="use_qk_norm", norms=1, tied=True
    ),
    "cohere2": Layout(Bias.ALL_FLAG, norms=1, tied=True, window=Rule.PATTERN, interval=4),
    "ernie4_5": Layout(
        Bias.ALL_FLAG, bias_key="use_bias", mlp_bias_key="use_bias", tied=True, head_dim=128
    ),
    "exaone": Layout(names=_EXAONE_NAMES, layers_key="num_layers"),
    "exaone4": Layout(head_norm=HeadNorm.SHARED, window=Rule.PATTERN, interval=4),
    "gemma": _GEMMA,
    "gemma2": dataclasses.replace(_GEMMA, norms=4, window=Rule.PATTERN, interval=2),
    "gemma3_text": dataclasses.replace(
        _GEMMA, norms=4, head_norm=HeadNorm.SHARED, window=Rule.PATTERN, interval=6
    ),
    "glm": Layout(Bias.QKV_FLAG, fused=True, head_dim=128),
    "glm4": Layout(Bias.QKV_FLAG, fused=True, norms=4, head_dim=128),
    "granite": Layout(Bias.ALL_FLAG, mlp_bias_key="mlp_bias"),
    "internlm2": Layout(Bias.ALL_FLAG, bias_key="bias", fused=True, names=_INTERNLM2_NAMES),
    "llama": Layout(Bias.ALL_FLAG, mlp_bias_key="mlp_bias"),
    # MiMo adds layers that predict further tokens, which vLLM leaves out unless asked for.
    "mimo": Layout(Bias.QKV, window=Rule.SWITCH),
    "minicpm": Layout(tied=True),
    "ministral3": Layout(window=Rule.ALL, head_dim=128),
    "mistral": Layout(window=Rule.ALL),
    "nemotron": Layout(Bias.ALL_FLAG, gated=False, mlp_bias_key="mlp_bias", norm_values=2),
    "olmo": Layout(Bias.ALL_FLAG, norm_values=0),
    "olmo2": Layout(Bias.ALL_FLAG, head_norm=HeadNorm.FULL),
    "olmo3": Layout(Bias.ALL_FLAG, head_norm=HeadNorm.FULL, window=Rule.PATTERN, interval=4),
    "phi3": Layout(fused=True, window=Rule.ALL),
    "qwen2": Layout(Bias.QKV, window=Rule.SWITCH),
    "qwen3": Layout(Bias.ALL_FLAG, head_norm=HeadNorm.SHARED, window=Rule.SWITCH, head_dim=128),
    "smollm3": Layout(Bias.ALL_FLAG, mlp_bias_key="mlp_bias", tied=True, window=Rule.POSITIONLESS),
    "stablelm": Layout(
        Bias.QKV_FLAG,
        bias_key="use_qkv_bias",
        head_norm=HeadNorm.FULL,
        head_norm_key="qk_layernorm",
        norm_values=2,
    ),
    "starcoder2": Layout(
        Bias.ALL_FLAG,
        bias_key="use_bias",
        gated=False,
        mlp_bias_key="use_bias",
        norm_values=2,
        tied=True,
        window=Rule.ALL,
    ),
}
"""Rows by `model_type`. MiniCPM, InternLM 2 and EXAONE follow the code of their repositories."""

_ON_BY_DEFAULT: Final = {
    ("starcoder2", "use_bias"),
    ("glm", "attention_bias"),
    ("glm4", "attention_bias"),
}
"""Switches that are on if the config leaves them out."""


@dataclasses.dataclass(frozen=True, slots=True)
class Widths:
    """The widths that every layer of a Llama-like decoder is built from."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    positions: int

    @property
    def queries(self) -> int:
        """Width of all queries."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all keys, and of all values."""
        return self.kv_heads * self.head_dim


def widths(config: Config, layout: Layout | None = None) -> Widths:
    """Read the widths, under the names and with the defaults of a layout."""
    layout = layout or Layout()
    hidden = whole(config, "hidden_size")
    layers = layer_count(config, layout.layers_key, "num_hidden_layers")
    heads = whole(config, "num_attention_heads")
    given = config.get("head_dim") is not None or not layout.head_dim
    return Widths(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads(config, heads),
        head_dim=head_dim(config, hidden, heads) if given else layout.head_dim,
        vocab=whole(config, "vocab_size"),
        positions=whole(config, "max_position_embeddings"),
    )


def blueprint(
    wide: Widths, matrices: Iterable[Matrix], norms: int, *, tied: bool, **others: int
) -> Blueprint:
    """Return the blueprint of a decoder; its output matrix may be tied to its embeddings.

    Args:
        norms: values beside those of matrices and embeddings.
        others: the further fields of the blueprint.
    """
    return Blueprint(
        matrices=(*matrices, *output_matrix("lm_head", wide.hidden, wide.vocab, tied=tied)),
        others=wide.vocab * wide.hidden + norms,
        hidden=wide.hidden,
        layers=wide.layers,
        heads=wide.heads,
        kv_heads=wide.kv_heads,
        head_dim=wide.head_dim,
        vocab=wide.vocab,
        positions=wide.positions,
        **others,
    )


def switched(family: str, config: Config, key: str) -> bool:
    """Return a switch of the config with the family's default."""
    return flag(config, key, (family, key) in _ON_BY_DEFAULT)


def dense(family: str, config: Config) -> Blueprint:
    """Return a Llama-like decoder by its family's layout."""
    layout = LAYOUTS[family]
    wide, inner = widths(config, layout), whole(config, "intermediate_size")
    tied = flag(config, "tie_word_embeddings", layout.tied)
    matrices = [
        matrix
        for layer in range(wide.layers)
        for matrix in (
            *attention(family, config, wide, layer),
            *mlp(family, config, wide.hidden, inner, layer),
        )
    ]
    norms = wide.hidden * layout.norm_values
    per_layer = norms * _norms_in_layer(family, config, layout) + head_norms(layout, config, wide)
    tokens, sliding = windows(config, wide.layers, layout.window, layout.interval)
    return blueprint(
        wide,
        matrices,
        wide.layers * per_layer + norms,
        tied=tied,
        intermediate=inner,
        window_tokens=tokens,
        window_layers=sliding,
    )


def _norms_in_layer(family: str, config: Config, layout: Layout) -> int:
    """Return the norms of a layer: only one if its MLP runs beside its attention."""
    if family == "stablelm" and flag(config, "use_parallel_residual", False):
        return 1
    return layout.norms


def head_norms(layout: Layout, config: Config, wide: Widths) -> int:
    """Return values of the norms on queries and keys in one layer."""
    if layout.head_norm_key and not flag(config, layout.head_norm_key, False):
        return 0
    match layout.head_norm:
        case HeadNorm.NONE:
            return 0
        case HeadNorm.SHARED:
            return 2 * wide.head_dim
        case HeadNorm.FULL:
            return wide.queries + wide.keys


def attention(family: str, config: Config, wide: Widths, layer: int) -> Iterator[Matrix]:
    """Yield the matrices of one layer's attention."""
    layout = LAYOUTS[family]
    asked = layout.bias is Bias.QKV or (
        layout.bias is not Bias.NONE and switched(family, config, layout.bias_key)
    )
    on_output = asked and layout.bias is Bias.ALL_FLAG
    prefix = f"model.layers.{layer}.self_attn"
    if layout.fused:
        both = wide.queries + 2 * wide.keys
        yield named(layout, Matrix(f"{prefix}.qkv_proj", wide.hidden, both, asked))
    else:
        for name, width in (("q", wide.queries), ("k", wide.keys), ("v", wide.keys)):
            yield named(layout, Matrix(f"{prefix}.{name}_proj", wide.hidden, width, asked))
    yield named(layout, Matrix(f"{prefix}.o_proj", wide.queries, wide.hidden, on_output))


def mlp(family: str, config: Config, hidden: int, inner: int, layer: int) -> Iterator[Matrix]:
    """Yield the matrices of one layer's MLP."""
    layout = LAYOUTS[family]
    bias = bool(layout.mlp_bias_key) and switched(family, config, layout.mlp_bias_key)
    prefix = f"model.layers.{layer}.mlp"
    if layout.fused:
        yield named(layout, Matrix(f"{prefix}.gate_up_proj", hidden, 2 * inner, bias))
    else:
        for name in ("gate", "up") if layout.gated else ("up",):
            yield named(layout, Matrix(f"{prefix}.{name}_proj", hidden, inner, bias))
    yield named(layout, Matrix(f"{prefix}.down_proj", inner, hidden, bias))


def named(layout: Layout, matrix: Matrix) -> Matrix:
    """Return the matrix under the name that its family gives it."""
    name = matrix.name
    for ours, theirs in layout.names:
        name = name.replace(ours, theirs)
    return matrix if name == matrix.name else dataclasses.replace(matrix, name=name)
