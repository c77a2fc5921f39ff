"""Describes a model as the list of its weights, from which counting and quantising start."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

from partitiond.core.model.architecture import Architecture
from partitiond.core.model.families.state import State, paged


@dataclasses.dataclass(frozen=True, slots=True)
class Matrix:
    """A linear layer, or several of one shape.

    Attributes:
        name: module name as in transformers, as "model.layers.3.self_attn.q_proj"; quantised
            checkpoints leave modules out by such names.
        inputs, outputs: its width on either side.
        bias: whether it adds a vector of `outputs` values.
        copies: number of experts; 1 for all else.
        used: number of copies that one token passes through.
        quantisable: quantisers take it unless it is left out by name (they leave the output matrix
            and routers alone).
    """

    name: str
    inputs: int
    outputs: int
    bias: bool = False
    copies: int = 1
    used: int = 1
    quantisable: bool = True

    @property
    def weights(self) -> int:
        """Values of the matrices themselves, all copies."""
        return self.inputs * self.outputs * self.copies

    @property
    def parameters(self) -> int:
        """All values, biases included."""
        return self.weights + (self.outputs * self.copies if self.bias else 0)


@dataclasses.dataclass(frozen=True, slots=True)
class Blueprint:
    """Everything a `config.json` says about memory and speed.

    Attributes:
        matrices: all linear layers, the output matrix included if it is not tied.
        others: values of embeddings, norms and convolutions.
        state_values: of a sequence in all layers together, before the engine's pages.
        The rest is as in `Architecture`.
    """

    matrices: tuple[Matrix, ...]
    others: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    positions: int
    latent_values: int = 0
    window_tokens: int = 0
    window_layers: int = 0
    stateless_layers: int = 0
    experts: int = 0
    experts_per_token: int = 0
    state_values: int = 0


def architecture_of(family: str, plan: Blueprint, note: str = "") -> Architecture:
    """Compute the architecture of a blueprint, for 16-bit weights and KV cache."""
    parameters = plan.others + sum(matrix.parameters for matrix in plan.matrices)
    experts = sum(m.weights + (m.outputs * m.copies if m.bias else 0) for m in _routed(plan))
    idle = sum(m.parameters * (m.copies - m.used) // m.copies for m in _routed(plan))
    # A window as long as the longest context never forgets anything.
    sliding = plan.window_layers if 0 < plan.window_tokens < plan.positions else 0
    return Architecture(
        family=family,
        parameters=parameters,
        hidden_size=plan.hidden,
        layers=plan.layers,
        heads=plan.heads,
        kv_heads=plan.kv_heads,
        head_dim=plan.head_dim,
        intermediate_size=plan.intermediate,
        vocab_size=plan.vocab,
        max_position=plan.positions,
        active_parameters=parameters - idle if idle else 0,
        latent_values_per_token=plan.latent_values,
        window_tokens=plan.window_tokens if sliding else 0,
        window_layers=sliding,
        stateless_layers=plan.stateless_layers,
        linear_parameters=sum(m.weights for m in plan.matrices if m.quantisable),
        experts=plan.experts,
        experts_per_token=plan.experts_per_token,
        expert_parameters=experts,
        state_values_per_sequence=_paged_state(plan),
        note=note,
    )


def _paged_state(plan: Blueprint) -> int:
    if not plan.state_values:
        return 0
    layers = plan.stateless_layers or plan.layers  # beside attention, or in its place
    state = State(-(-plan.state_values // layers), layers, plan.layers - plan.stateless_layers)
    return paged(state, plan.latent_values or 2 * plan.kv_heads * plan.head_dim)


def _routed(plan: Blueprint) -> Iterable[Matrix]:
    return (matrix for matrix in plan.matrices if matrix.copies > 1)


def output_matrix(
    name: str, hidden: int, vocab: int, *, tied: bool, bias: bool = False
) -> list[Matrix]:
    """Return the output matrix; empty if it is the input embedding."""
    if tied:
        return []
    return [Matrix(name, hidden, vocab, bias, quantisable=False)]


def mlp_matrices(
    prefix: str,
    hidden: int,
    inner: int,
    *,
    names: Sequence[str] = ("gate_proj", "up_proj", "down_proj"),
    bias: bool = False,
    copies: int = 1,
    used: int = 1,
) -> Iterator[Matrix]:
    """Yield the three matrices of a gated MLP, or of several of one shape."""
    gate, up, down = names
    for name, inputs, outputs in (
        (gate, hidden, inner),
        (up, hidden, inner),
        (down, inner, hidden),
    ):
        yield Matrix(f"{prefix}.{name}", inputs, outputs, bias, copies, used)


def blocks(values: int, size: int) -> int:
    """Return whole blocks of `size` that cover `values`."""
    return math.ceil(values / size)
