"""Counts encoders, which read a text as a whole and generate none: BERT, RoBERTa, ModernBERT.

They embed, rank and classify. Nothing of a text is kept from step to step: they have no KV cache.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Final

from partitiond.core.model.families.blueprint import Blueprint, Matrix
from partitiond.core.model.families.reading import (
    Config,
    bad,
    flag,
    head_dim,
    layer_count,
    shown,
    texts,
    whole,
)

_POSITIONS: Final = "position_embedding_type"
_ROBERTA_OFFSET: Final = 2
"""Positions of RoBERTa start behind its padding index, 1 (transformers: RobertaEmbeddings)."""


def bert(config: Config) -> Blueprint:
    """BERT: learned (or Jina's rotary) positions, kinds of segment, biases everywhere, a pooler."""
    hidden, inner = whole(config, "hidden_size"), whole(config, "intermediate_size")
    positions, kind = whole(config, "max_position_embeddings"), config.get(_POSITIONS)
    if kind not in (None, "absolute", "rotary"):
        raise bad(_POSITIONS, f"is {shown(kind)}, which vLLM does not serve", kind)
    tables = whole(config, "vocab_size") + whole(config, "type_vocab_size", default=2)
    tables += 0 if kind == "rotary" else positions
    layer = [(f"attention.{n}", hidden, hidden) for n in ("query", "key", "value", "output")]
    layer += [("intermediate", hidden, inner), ("output", inner, hidden)]
    return _encoder(
        config,
        [(name, inputs, outputs, True) for name, inputs, outputs in layer],
        others=tables * hidden + 2 * hidden + hidden * (hidden + 1),
        norms=4 * hidden,
        positions=positions,
    )


def roberta(config: Config) -> Blueprint:
    """RoBERTa and XLM-RoBERTa: as BERT; a classifier takes the place of the pooler."""
    plan = bert(config)
    longest = max(1, plan.positions - _ROBERTA_OFFSET)
    return dataclasses.replace(plan, positions=longest)


def modernbert(config: Config) -> Blueprint:
    """ModernBERT: rotary positions, gated MLPs, no biases unless asked for."""
    hidden, inner = whole(config, "hidden_size"), whole(config, "intermediate_size")
    attends = flag(config, "attention_bias", False)
    mixes = flag(config, "mlp_bias", False)
    norm = hidden * (2 if flag(config, "norm_bias", False) else 1)
    return _encoder(
        config,
        [
            ("attn.Wqkv", hidden, 3 * hidden, attends),
            ("attn.Wo", hidden, hidden, attends),
            ("mlp.Wi", hidden, 2 * inner, mixes),
            ("mlp.Wo", inner, hidden, mixes),
        ],
        # Embeddings and the last layer have a norm; the first layer has none before attention.
        others=whole(config, "vocab_size") * hidden + norm,
        norms=2 * norm,
        positions=whole(config, "max_position_embeddings", default=8192),
        head=hidden * (hidden + flag(config, "classifier_bias", False)) + norm,
    )


def _encoder(
    config: Config,
    layer: list[tuple[str, int, int, bool]],
    *,
    others: int,
    norms: int,
    positions: int,
    head: int = 0,
) -> Blueprint:
    """Build the parts that all share.

    Args:
        layer: the matrices of a layer: name, width on either side, bias.
        others: values beside the layers.
        norms: values of a layer's norms.
        head: values between the encoder and a classifier's output matrix, if it has one.
    """
    hidden, layers = whole(config, "hidden_size"), layer_count(config)
    heads = whole(config, "num_attention_heads")
    classes = _classes(config)
    return Blueprint(
        matrices=tuple(
            Matrix(f"encoder.layer.{number}.{name}", inputs, outputs, bias)
            for number in range(layers)
            for name, inputs, outputs, bias in layer
        ),
        others=others + layers * norms + (classes * (hidden + 1) + head if classes else 0),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim({}, hidden, heads),
        intermediate=whole(config, "intermediate_size"),
        vocab=whole(config, "vocab_size"),
        positions=positions,
        stateless_layers=layers,
    )


def _classes(config: Config) -> int:
    """Return the outputs of a classifier or ranker; 0 for a model that embeds."""
    if not any(
        "ForSequenceClassification" in name for name in texts(config, "architectures") or ()
    ):
        return 0
    labels = config.get("id2label")
    return len(labels) if isinstance(labels, dict) else whole(config, "num_labels", default=2)


ENCODERS: Final[Mapping[str, Callable[[Config], Blueprint]]] = {
    "bert": bert,
    "modernbert": modernbert,
    "roberta": roberta,
    "xlm-roberta": roberta,
}
"""Builders by `model_type`."""
