"""Counts decoders that mix attention with layers of constant state: LFM2, Granite 4, Falcon-H1.

A convolution layer keeps its last inputs of a sequence. A Mamba-2 layer keeps those and a state of
heads x head_dim x state values (Dao and Gu 2024). Neither keeps anything per token.
"""

import dataclasses
from collections.abc import Iterator
from typing import Final

from partitiond.core.model.families.blueprint import Blueprint, Matrix, blocks, mlp_matrices
from partitiond.core.model.families.dense import attention, blueprint, widths
from partitiond.core.model.families.experts import Experts, experts_per_token, mixture_matrices
from partitiond.core.model.families.reading import (
    Config,
    bad,
    flag,
    layer_types,
    number,
    whole,
    wholes,
)

HYBRID: Final = ("falcon_h1", "granitemoehybrid", "lfm2")
"""Values of `model_type`."""


def hybrid(family: str, config: Config) -> Blueprint:
    """Return a decoder with convolution or state-space layers."""
    builders = {"falcon_h1": _falcon_h1, "granitemoehybrid": _granite, "lfm2": _lfm2}
    return builders[family](config)


# --- LFM2 ------------------------------------------------------------------------------------


def _lfm2(config: Config) -> Blueprint:
    """LFM2: most layers are short gated convolutions."""
    wide, inner = widths(config), _lfm2_inner(config)
    bias, kernel = flag(config, "conv_bias", False), whole(config, "conv_L_cache", default=3)
    attends = _lfm2_attention(config, wide.layers)
    matrices: list[Matrix] = []
    norms = wide.hidden
    for layer in range(wide.layers):
        prefix = f"model.layers.{layer}"
        norms += 2 * wide.hidden
        if layer in attends:
            matrices += attention("qwen3", {}, wide, layer)
            norms += 2 * wide.head_dim
        else:
            matrices.append(Matrix(f"{prefix}.conv.in_proj", wide.hidden, 3 * wide.hidden, bias))
            matrices.append(Matrix(f"{prefix}.conv.out_proj", wide.hidden, wide.hidden, bias))
            norms += wide.hidden * (kernel + bias)
        matrices += mlp_matrices(
            f"{prefix}.feed_forward", wide.hidden, inner, names=("w1", "w3", "w2")
        )
    stateless = wide.layers - len(attends)
    tied = flag(config, "tie_embedding", flag(config, "tie_word_embeddings", True))
    state = stateless * wide.hidden * (kernel - 1)
    return blueprint(
        wide,
        matrices,
        norms,
        tied=tied,
        intermediate=inner,
        stateless_layers=stateless,
        state_values=state,
    )


def _lfm2_attention(config: Config, layers: int) -> frozenset[int]:
    types = layer_types(config, layers)
    if types is not None:
        return frozenset(i for i, kind in enumerate(types) if kind == "full_attention")
    listed = wholes(config, "full_attn_idxs")
    return frozenset(range(layers)) if listed is None else frozenset(listed) & set(range(layers))


def _lfm2_inner(config: Config) -> int:
    """Return the MLP's width: two thirds of the config's value, rounded up (transformers:
    Lfm2MLP).
    """
    inner = whole(config, "block_ff_dim", "intermediate_size")
    if not flag(config, "block_auto_adjust_ff_dim", True):
        return inner
    inner = int(2 * inner / 3)
    inner = int(number(config, "block_ffn_dim_multiplier", 1.0) * inner)
    multiple = whole(config, "block_multiple_of", default=256)
    return multiple * blocks(inner, multiple)


# --- Mamba-2 ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Mamba:
    """A Mamba-2 mixer: its widths, and what follows from them."""

    hidden: int
    inner: int
    heads: int
    head_dim: int
    groups: int
    state: int
    kernel: int
    conv_bias: bool
    bias: bool
    out_bias: bool
    norm: bool

    @property
    def _convolved(self) -> int:
        return self.inner + 2 * self.groups * self.state

    def matrices(self, prefix: str) -> Iterator[Matrix]:
        projected = self.inner + self._convolved + self.heads
        yield Matrix(f"{prefix}.mamba.in_proj", self.hidden, projected, self.bias)
        yield Matrix(f"{prefix}.mamba.out_proj", self.inner, self.hidden, self.out_bias)

    @property
    def others(self) -> int:
        """Convolution, its bias, the three values per head, and the norm."""
        convolution = self._convolved * (self.kernel + self.conv_bias)
        return convolution + 3 * self.heads + (self.inner if self.norm else 0)

    @property
    def state_values(self) -> int:
        """Values that it keeps of one sequence."""
        return self._convolved * (self.kernel - 1) + self.heads * self.head_dim * self.state


def _mamba(config: Config, hidden: int, inner: int, *, norm: bool, out_bias: bool) -> _Mamba:
    heads = whole(config, "mamba_n_heads", default=128)
    width = config.get("mamba_d_head")
    head = inner // heads if width is None or width == "auto" else whole(config, "mamba_d_head")
    if heads * head != inner:
        raise bad("mamba_n_heads", f"({heads}) x mamba_d_head ({head}) is not {inner}", heads)
    return _Mamba(
        hidden=hidden,
        inner=inner,
        heads=heads,
        head_dim=head,
        groups=whole(config, "mamba_n_groups", default=1),
        state=whole(config, "mamba_d_state", default=256),
        kernel=whole(config, "mamba_d_conv", default=4),
        conv_bias=flag(config, "mamba_conv_bias", True),
        bias=flag(config, "mamba_proj_bias", False),
        out_bias=out_bias,
        norm=norm,
    )


def _granite(config: Config) -> Blueprint:
    """Granite 4: layers with attention or Mamba-2, each with a shared MLP and perhaps experts."""
    wide = widths(config)
    types = layer_types(config, wide.layers) or layer_types(
        config, wide.layers, "layers_block_type"
    )
    types = types or ("mamba",) * wide.layers
    mixers = sum(kind in {"mamba", "linear_attention"} for kind in types)
    expand = whole(config, "mamba_expand", default=2)
    bias = flag(config, "mamba_proj_bias", False)
    mixer = (
        _mamba(config, wide.hidden, expand * wide.hidden, norm=True, out_bias=bias)
        if mixers
        else None
    )
    experts = _granite_experts(config)
    shared = whole(config, "shared_intermediate_size", default=1024)
    matrices: list[Matrix] = []
    for layer, kind in enumerate(types):
        prefix = f"model.layers.{layer}"
        if mixer is not None and kind in {"mamba", "linear_attention"}:
            matrices += mixer.matrices(prefix)
        else:
            matrices += attention("llama", config, wide, layer)
        if experts is not None:
            matrices += mixture_matrices(f"{prefix}.block_sparse_moe", wide.hidden, experts)
        matrices.append(Matrix(f"{prefix}.shared_mlp.input_linear", wide.hidden, 2 * shared))
        matrices.append(Matrix(f"{prefix}.shared_mlp.output_linear", shared, wide.hidden))
    return blueprint(
        wide,
        matrices,
        (2 * wide.layers + 1) * wide.hidden + mixers * (mixer.others if mixer else 0),
        tied=flag(config, "tie_word_embeddings", False),
        intermediate=shared + (experts.width if experts else 0),
        stateless_layers=mixers,
        state_values=mixers * (mixer.state_values if mixer else 0),
        experts=experts.count if experts else 0,
        experts_per_token=experts.used if experts else 0,
    )


def _granite_experts(config: Config) -> Experts | None:
    count = whole(config, "num_local_experts", default=8, least=0)
    if not count:
        return None
    return Experts(count, experts_per_token(config, count), whole(config, "intermediate_size"))


def _falcon_h1(config: Config) -> Blueprint:
    """Falcon-H1: attention and Mamba-2 side by side in every layer."""
    wide, inner = widths(config), whole(config, "intermediate_size")
    d_ssm = config.get("mamba_d_ssm")
    expanded = whole(config, "mamba_expand", default=2) * wide.hidden
    mixer = _mamba(
        config,
        wide.hidden,
        expanded if d_ssm is None else whole(config, "mamba_d_ssm"),
        norm=flag(config, "mamba_rms_norm", False),
        out_bias=flag(config, "projectors_bias", False),
    )
    bias = flag(config, "mlp_bias", False)
    matrices: list[Matrix] = []
    for layer in range(wide.layers):
        prefix = f"model.layers.{layer}"
        matrices += attention("llama", config, wide, layer)
        matrices += mixer.matrices(prefix)
        matrices += mlp_matrices(f"{prefix}.feed_forward", wide.hidden, inner, bias=bias)
    return blueprint(
        wide,
        matrices,
        (2 * wide.layers + 1) * wide.hidden + wide.layers * mixer.others,
        tied=flag(config, "tie_word_embeddings", False),
        intermediate=inner,
        state_values=wide.layers * mixer.state_values,
    )
