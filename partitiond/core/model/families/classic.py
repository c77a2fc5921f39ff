"""Counts decoders of their own layout: OPT, GPT-2 and kin, GPT-NeoX, GPT-J, Phi, Bloom, Falcon.

They are counted term by term, as the model classes of transformers allocate them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from partitiond.core.model.families.blueprint import Blueprint, Matrix, output_matrix
from partitiond.core.model.families.reading import (
    Config,
    bad,
    flag,
    head_dim,
    kv_heads,
    layer_count,
    whole,
)

_OPT_POSITION_OFFSET: Final = 2
"""OPT's learned positions start at 2 (transformers: OPTLearnedPositionalEmbedding)."""
_BLOOM_POSITIONS: Final = 2048
"""Bloom has no learned positions (ALiBi) and its configs name none: it was trained with 2048
tokens (Le Scao et al. 2022, table 3)."""


def opt(config: Config) -> Blueprint:
    """OPT: learned positions, biases everywhere, two-matrix MLP, tied embeddings."""
    hidden, layers = whole(config, "hidden_size"), layer_count(config)
    heads, inner = whole(config, "num_attention_heads"), whole(config, "ffn_dim")
    vocab, positions = whole(config, "vocab_size"), whole(config, "max_position_embeddings")
    embedded = whole(config, "word_embed_proj_dim", default=hidden)
    bias = flag(config, "enable_bias", True)
    matrices: list[Matrix] = []
    for layer in range(layers):
        prefix = f"model.decoder.layers.{layer}"
        matrices += [
            Matrix(f"{prefix}.self_attn.{name}_proj", hidden, hidden, bias)
            for name in ("q", "k", "v", "out")
        ]
        matrices.append(Matrix(f"{prefix}.fc1", hidden, inner, bias))
        matrices.append(Matrix(f"{prefix}.fc2", inner, hidden, bias))
    if embedded != hidden:
        matrices.append(Matrix("model.decoder.project_in", embedded, hidden, quantisable=False))
        matrices.append(Matrix("model.decoder.project_out", hidden, embedded, quantisable=False))
    tied = flag(config, "tie_word_embeddings", True)
    norm = 2 * hidden if flag(config, "layer_norm_elementwise_affine", True) else 0
    final_norm = norm if flag(config, "do_layer_norm_before", True) else 0
    embeddings = vocab * embedded + (positions + _OPT_POSITION_OFFSET) * hidden
    return Blueprint(
        matrices=(*matrices, *output_matrix("lm_head", embedded, vocab, tied=tied)),
        others=embeddings + layers * 2 * norm + final_norm,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim({}, hidden, heads),
        intermediate=inner,
        vocab=vocab,
        positions=positions,
    )


_Row = tuple[str, int, int, bool]
"""A matrix of every layer: its name, its width on either side, and whether it adds a bias."""
_LAYERS: Final = ("num_hidden_layers", "n_layer")


def _plain(
    config: Config,
    *,
    prefix: str,
    layer: Sequence[_Row],
    inner: int,
    norm_values_per_layer: int,
    other_values: int,
    kv: int | None = None,
    tied: bool = True,
    head_bias: bool = False,
    head_name: str = "lm_head",
    positions: int,
) -> Blueprint:
    """Build the parts that the families below share: a name prefix and the rows of each layer."""
    hidden = whole(config, "hidden_size", "n_embd", "n_embed")
    layers = layer_count(config, *_LAYERS)
    heads = whole(config, "num_attention_heads", "n_head")
    vocab = whole(config, "vocab_size")
    tied = flag(config, "tie_word_embeddings", tied)
    head = output_matrix(head_name, hidden, vocab, tied=tied, bias=head_bias)
    if tied and head_bias:
        other_values += vocab
    listed = [
        Matrix(f"{prefix}.{number}.{name}", inputs, outputs, bias)
        for number in range(layers)
        for name, inputs, outputs, bias in layer
    ]
    return Blueprint(
        matrices=(*listed, *head),
        others=vocab * hidden + layers * norm_values_per_layer + other_values,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=heads if kv is None else kv,
        head_dim=head_dim({}, hidden, heads),
        intermediate=inner,
        vocab=vocab,
        positions=positions,
    )


def gpt2(config: Config) -> Blueprint:
    """GPT-2: learned positions, one matrix for query, key and value, biases, tied embeddings."""
    return gpt_bigcode({**config, "multi_query": False})


def gpt_bigcode(config: Config) -> Blueprint:
    """StarCoder: GPT-2 with one head of keys and values for all (multi-query attention)."""
    hidden = whole(config, "n_embd", "hidden_size")
    heads = whole(config, "n_head", "num_attention_heads")
    positions = whole(config, "n_positions", "max_position_embeddings", "n_ctx")
    inner = whole(config, "n_inner", default=4 * hidden)
    kv = 1 if flag(config, "multi_query", True) else heads
    keys = kv * head_dim({}, hidden, heads)
    return _plain(
        config,
        prefix="transformer.h",
        layer=(
            ("attn.c_attn", hidden, hidden + 2 * keys, True),
            ("attn.c_proj", hidden, hidden, True),
            ("mlp.c_fc", hidden, inner, True),
            ("mlp.c_proj", inner, hidden, True),
        ),
        inner=inner,
        norm_values_per_layer=4 * hidden,
        other_values=positions * hidden + 2 * hidden,
        kv=kv,
        positions=positions,
    )


def gpt_neox(config: Config) -> Blueprint:
    """GPT-NeoX and Pythia: rotary positions, biases, untied embeddings."""
    hidden = whole(config, "hidden_size")
    bias = flag(config, "attention_bias", True)
    inner = whole(config, "intermediate_size")
    return _plain(
        config,
        prefix="gpt_neox.layers",
        layer=(
            ("attention.query_key_value", hidden, 3 * hidden, bias),
            ("attention.dense", hidden, hidden, bias),
            ("mlp.dense_h_to_4h", hidden, inner, True),
            ("mlp.dense_4h_to_h", inner, hidden, True),
        ),
        inner=inner,
        norm_values_per_layer=4 * hidden,
        other_values=2 * hidden,
        tied=False,
        head_name="embed_out",
        positions=whole(config, "max_position_embeddings"),
    )


def gptj(config: Config) -> Blueprint:
    """GPT-J: rotary positions, no biases in attention, one norm per layer, a bias on the output."""
    hidden = whole(config, "n_embd", "hidden_size")
    inner = whole(config, "n_inner", default=4 * hidden)
    return _plain(
        config,
        prefix="transformer.h",
        layer=(
            *((f"attn.{name}_proj", hidden, hidden, False) for name in ("q", "k", "v", "out")),
            ("mlp.fc_in", hidden, inner, True),
            ("mlp.fc_out", inner, hidden, True),
        ),
        inner=inner,
        norm_values_per_layer=2 * hidden,
        other_values=2 * hidden,
        tied=False,
        head_bias=True,
        positions=whole(config, "n_positions", "max_position_embeddings"),
    )


def phi(config: Config) -> Blueprint:
    """Phi-1, 1.5 and 2: biases everywhere, one norm per layer, a bias on the output."""
    hidden, heads = whole(config, "hidden_size"), whole(config, "num_attention_heads")
    width = head_dim({}, hidden, heads)
    kv = kv_heads(config, heads)
    keys = kv * width
    head_norms = 4 * width if flag(config, "qk_layernorm", False) else 0
    inner = whole(config, "intermediate_size")
    return _plain(
        config,
        prefix="model.layers",
        layer=(
            ("self_attn.q_proj", hidden, hidden, True),
            ("self_attn.k_proj", hidden, keys, True),
            ("self_attn.v_proj", hidden, keys, True),
            ("self_attn.dense", hidden, hidden, True),
            ("mlp.fc1", hidden, inner, True),
            ("mlp.fc2", inner, hidden, True),
        ),
        inner=inner,
        norm_values_per_layer=2 * hidden + head_norms,
        other_values=2 * hidden,
        kv=kv,
        tied=False,
        head_bias=True,
        positions=whole(config, "max_position_embeddings"),
    )


def bloom(config: Config) -> Blueprint:
    """Bloom: no learned positions (ALiBi), a norm on the embeddings, biases, tied embeddings."""
    hidden = whole(config, "hidden_size", "n_embed")
    inner = 4 * hidden
    return _plain(
        config,
        prefix="transformer.h",
        layer=(
            ("self_attention.query_key_value", hidden, 3 * hidden, True),
            ("self_attention.dense", hidden, hidden, True),
            ("mlp.dense_h_to_4h", hidden, inner, True),
            ("mlp.dense_4h_to_h", inner, hidden, True),
        ),
        inner=inner,
        norm_values_per_layer=4 * hidden,
        other_values=4 * hidden,
        positions=whole(config, "seq_length", default=_BLOOM_POSITIONS),
    )


def falcon(config: Config) -> Blueprint:
    """Falcon 7B (multi-query, one norm) and the later layout (grouped heads, two norms)."""
    hidden = whole(config, "hidden_size", "n_embed")
    heads = whole(config, "num_attention_heads", "n_head")
    bias = flag(config, "bias", False)
    later = flag(config, "new_decoder_architecture", False)
    if later:
        kv = kv_heads(config, heads, "num_kv_heads")
    else:
        kv = 1 if flag(config, "multi_query", True) else heads
    keys = kv * head_dim({}, hidden, heads)
    norms = _falcon_norms(config, later=later)
    inner = whole(config, "ffn_hidden_size", default=4 * hidden)
    return _plain(
        config,
        prefix="transformer.h",
        layer=(
            ("self_attention.query_key_value", hidden, hidden + 2 * keys, bias),
            ("self_attention.dense", hidden, hidden, bias),
            ("mlp.dense_h_to_4h", hidden, inner, bias),
            ("mlp.dense_4h_to_h", inner, hidden, bias),
        ),
        inner=inner,
        norm_values_per_layer=norms * 2 * hidden,
        other_values=2 * hidden,
        kv=kv,
        positions=whole(config, "max_position_embeddings", default=2048),
    )


def _falcon_norms(config: Config, *, later: bool) -> int:
    """Return norms per layer: 2 if the MLP follows attention, or in the later layout if no key says
    1.
    """
    if not flag(config, "parallel_attn", True):
        return 2
    norms = whole(config, "num_ln_in_parallel_attn", default=2 if later else 1)
    if norms > 2:
        raise bad("num_ln_in_parallel_attn", f"must be 1 or 2, got {norms}", norms)
    return norms


CLASSIC: Final[Mapping[str, Callable[[Config], Blueprint]]] = {
    "bloom": bloom,
    "falcon": falcon,
    "gpt2": gpt2,
    "gpt_bigcode": gpt_bigcode,
    "gpt_neox": gpt_neox,
    "gptj": gptj,
    "opt": opt,
    "phi": phi,
}
"""Builders by `model_type`."""
