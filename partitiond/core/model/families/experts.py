"""Counts mixtures of experts with ordinary attention: Mixtral, Qwen2/3 MoE, OLMoE, Granite MoE.

Attention is as in the dense family that the model grew from (`LAYOUTS`). The MLP of a layer is a
router, experts of which each token passes through a few, and shared experts for every token.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final

from partitiond.core.model.families.blueprint import Blueprint, Matrix, mlp_matrices
from partitiond.core.model.families.dense import (
    LAYOUTS,
    Widths,
    attention,
    blueprint,
    head_norms,
    mlp,
    widths,
)
from partitiond.core.model.families.reading import Config, bad, flag, whole, wholes
from partitiond.core.model.families.windows import Rule, windows


@dataclasses.dataclass(frozen=True, slots=True)
class Mixture:
    """The way in which a family mixes experts.

    Attributes:
        like: the dense family with the same attention, norms and biases.
        inner_key: config key of the width of one expert.
        shared_key: config key of the width of the shared experts; empty if there are none.
        shared_gate: a gate of one output weighs the shared experts.
        some_dense: layers may have an ordinary MLP (mlp_only_layers, decoder_sparse_step).
        prefix: module name of the mixture in a layer.
        window: the rule for sliding windows.
        tied: whether embeddings are tied if the config does not say.
    """

    like: str
    inner_key: str = "intermediate_size"
    shared_key: str = ""
    shared_gate: bool = False
    some_dense: bool = False
    prefix: str = "mlp"
    window: Rule = Rule.NONE
    tied: bool = False


MIXTURES: Final[Mapping[str, Mixture]] = {
    "granitemoe": Mixture(like="llama", prefix="block_sparse_moe"),
    "granitemoeshared": Mixture(
        like="llama", shared_key="shared_intermediate_size", prefix="block_sparse_moe"
    ),
    "mixtral": Mixture(like="mistral", prefix="block_sparse_moe", window=Rule.ALL),
    "olmoe": Mixture(like="olmo2"),
    "qwen2_moe": Mixture(
        like="qwen2",
        inner_key="moe_intermediate_size",
        shared_key="shared_expert_intermediate_size",
        shared_gate=True,
        some_dense=True,
        window=Rule.SWITCH,
    ),
    "qwen3_moe": Mixture(
        like="qwen3",
        inner_key="moe_intermediate_size",
        some_dense=True,
        window=Rule.SWITCH,
    ),
}
"""Rows by `model_type`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Experts:
    """The experts of one layer.

    Attributes:
        count, used: number of experts, and how many of them a token passes through.
        inner: width of one expert.
        shared: width of the shared experts together; 0 for none.
        shared_gate: a gate weighs the shared experts.
    """

    count: int
    used: int
    inner: int
    shared: int = 0
    shared_gate: bool = False

    @property
    def width(self) -> int:
        """Width that one token passes through."""
        return self.used * self.inner + self.shared


def read_experts(config: Config, mixture: Mixture) -> Experts:
    """Return the number and widths of the experts."""
    count = whole(config, "num_local_experts", "num_experts")
    shared = whole(config, mixture.shared_key, default=0, least=0) if mixture.shared_key else 0
    return Experts(
        count=count,
        used=experts_per_token(config, count),
        inner=whole(config, mixture.inner_key),
        shared=shared,
        shared_gate=mixture.shared_gate and shared > 0,
    )


def experts_per_token(config: Config, count: int) -> int:
    """Return experts that one token passes through."""
    used = whole(config, "num_experts_per_tok")
    if used > count:
        raise bad("num_experts_per_tok", f"({used}) is more than there are experts ({count})", used)
    return used


def mixture_matrices(prefix: str, hidden: int, experts: Experts) -> Iterator[Matrix]:
    """Yield router, experts and shared experts of one layer."""
    count, inner = experts.count, experts.inner
    yield Matrix(f"{prefix}.gate", hidden, count, quantisable=False)
    yield from mlp_matrices(f"{prefix}.experts", hidden, inner, copies=count, used=experts.used)
    if experts.shared:
        yield from mlp_matrices(f"{prefix}.shared_experts", hidden, experts.shared)
    if experts.shared_gate:
        yield Matrix(f"{prefix}.shared_expert_gate", hidden, 1, quantisable=False)


def mixture_of_experts(family: str, config: Config) -> Blueprint:
    """Return a decoder whose MLPs are mixtures of experts."""
    mixture = MIXTURES[family]
    layout, wide = LAYOUTS[mixture.like], widths(config)
    experts = read_experts(config, mixture)
    sparse = _sparse_layers(config, mixture, wide.layers)
    matrices: list[Matrix] = []
    for layer in range(wide.layers):
        matrices += attention(mixture.like, config, wide, layer)
        if layer in sparse:
            prefix = f"model.layers.{layer}.{mixture.prefix}"
            matrices += mixture_matrices(prefix, wide.hidden, experts)
        else:
            dense_inner = whole(config, "intermediate_size")
            matrices += mlp(mixture.like, config, wide.hidden, dense_inner, layer)
    tied = flag(config, "tie_word_embeddings", mixture.tied)
    per_layer = layout.norms * wide.hidden + head_norms(layout, config, wide)
    tokens, sliding = windows(config, wide.layers, mixture.window)
    return blueprint(
        wide,
        matrices,
        wide.layers * per_layer + wide.hidden,
        tied=tied,
        intermediate=_widest(config, wide, sparse, experts),
        window_tokens=tokens,
        window_layers=sliding,
        experts=experts.count,
        experts_per_token=experts.used,
    )


def _sparse_layers(config: Config, mixture: Mixture, layers: int) -> frozenset[int]:
    """Return layers with experts, by the rule of Qwen2MoeDecoderLayer."""
    if not mixture.some_dense:
        return frozenset(range(layers))
    step = whole(config, "decoder_sparse_step", default=1)
    ordinary = wholes(config, "mlp_only_layers") or ()
    return frozenset(
        layer for layer in range(layers) if layer not in ordinary and (layer + 1) % step == 0
    )


def _widest(config: Config, wide: Widths, sparse: frozenset[int], experts: Experts) -> int:
    ordinary = whole(config, "intermediate_size") if len(sparse) < wide.layers else 0
    return max(experts.width if sparse else 0, ordinary)
