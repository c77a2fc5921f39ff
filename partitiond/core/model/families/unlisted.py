"""Bounds what is not counted: models of other families, and towers beside a text decoder.

vLLM starts more families than `FAMILIES` has. Where the files of such a model are at hand, their
size is its weights, and no layer keeps more of a token than the keys and values of its heads: so a
first engine has room, and a profile measures the rest.
"""

from typing import Final

from partitiond.core.model.architecture import Architecture
from partitiond.core.model.families.reading import (
    Config,
    bad,
    head_dim,
    kv_heads,
    largest,
    layer_count,
    scaled_positions,
    section,
    shown,
    whole,
)
from partitiond.core.model.families.state import paged, state_of
from partitiond.core.model.precision import BYTES_PER_VALUE

STORED_BYTES: Final = "weights_bytes"
"""Key that `models.folder` adds to a config: bytes of the weight files."""
_HEADS: Final = ("num_attention_heads", "n_head", "n_heads")
_CONTEXT: Final = 131_072
_VOCABULARY: Final = 262_144
"""Context and vocabulary of configs that leave both to their class: the largest usual ones.
Assumed."""
_TOWERS: Final = ("vision_config", "audio_config")
_USUAL_TOWER: Final = {"hidden": 1152, "inner": 4304, "layers": 27}
"""Sizes of the SigLIP tower of Gemma 3, for configs that leave out what their class defaults to."""


def bounded(config: Config, text: Config, family: str) -> Architecture | None:
    """Return upper bounds of a model, None if it has no attention or its files are not known.
    Raises SpecError.

    Args:
        config: with the size of the files (`STORED_BYTES`).
        text: of its text decoder.
        family: of that decoder.
    """
    stored = stored_bytes(config)
    if stored is None or all(text.get(key) is None for key in _HEADS):
        return None
    hidden = largest(text, "hidden_size", "n_embd", "d_model")
    heads = largest(text, *_HEADS)
    positions = largest(
        text,
        "max_position_embeddings",
        "n_positions",
        "max_seq_len",
        "seq_length",
        default=_CONTEXT,
    )
    each = BYTES_PER_VALUE.get(str(config.get("dtype") or config.get("torch_dtype")), 2.0)
    layers = layer_count(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    kv, width = kv_heads(text, heads), head_dim(text, hidden, heads)
    state = state_of(text, layers, hidden)
    return Architecture(
        family=family,
        parameters=max(1, int(stored // each)),
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv,
        head_dim=width,
        intermediate_size=largest(
            text, "intermediate_size", "n_inner", "ffn_hidden_size", default=4 * hidden
        ),
        vocab_size=largest(text, "vocab_size", "padded_vocab_size", default=_VOCABULARY),
        max_position=scaled_positions(family, text, positions),
        stateless_layers=layers - state.attending if state else 0,
        state_values_per_sequence=paged(state, 2 * kv * width) if state else 0,
        note=f"{family} is not counted: its weights are the size of its files, and every layer is "
        "taken to keep all keys and values. Measure a profile before you rely on it.",
    )


def stored_bytes(config: Config) -> int | None:
    """Return bytes of the weight files, None if they are not at hand. Raises SpecError."""
    stored = config.get(STORED_BYTES)
    if stored is None:
        return None
    if isinstance(stored, bool) or not isinstance(stored, int) or not 0 < stored < 10**15:
        raise bad(STORED_BYTES, f"must be a number of bytes, got {shown(stored)}", stored)
    return stored


def tower_parameters(config: Config) -> int:
    """Return at least the parameters of the towers beside a text decoder, 0 without any.

    Each layer has four square matrices and a gated MLP; a projector joins four patches. Raises
    SpecError.
    """
    count = 0
    for key in _TOWERS:
        tower = section(config, key)
        if tower is not None:
            usual = _USUAL_TOWER
            # Qwen2-VL names the decoder's width hidden_size, and its own embed_dim.
            hidden = whole(tower, "embed_dim", "hidden_size", "d_model", default=usual["hidden"])
            inner = whole(
                tower, "intermediate_size", "encoder_ffn_dim", default=max(usual["inner"], hidden)
            )
            layers = whole(
                tower, "num_hidden_layers", "depth", "encoder_layers", default=usual["layers"]
            )
            count += layers * (4 * hidden * hidden + 3 * hidden * inner) + 2 * (4 * hidden) ** 2
    return count
