"""Finds the text decoder inside a multimodal model's config."""

from collections.abc import Mapping
from typing import Final

from partitiond.core.model.families.reading import Config, section

_TEXT_KEYS: Final = ("text_config", "llm_config", "language_config")
"""Keys under which multimodal configs keep their decoder's config."""

_SAME_AS: Final = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
}
"""Text decoders that have a name of their own, but the weights of a known family."""

_FLAT: Final = {"qwen2_vl": "qwen2", "qwen2_5_vl": "qwen2"}
"""Multimodal families whose published configs keep the decoder's keys at the top."""

_GEMMA2: Final = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
}
_WIDER: Final = {"hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28}
_LLAMA: Final = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
_WINDOW: Final = {"max_position_embeddings": 131072, "sliding_window": 4096}

_CLASS_DEFAULTS: Final[Mapping[str, Mapping[str, object]]] = {
    # A nested config leaves out values that are defaults of its configuration class (transformers
    # writes only the difference).
    "gemma3_text": {**_GEMMA2, "vocab_size": 262208, "max_position_embeddings": 131072},
    "gemma2": _GEMMA2,
    "gemma": {**_GEMMA2, **_WIDER, "num_attention_heads": 16, "num_key_value_heads": 16},
    "llama": _LLAMA,
    "qwen2": {"max_position_embeddings": 32768},
    "qwen3": {"max_position_embeddings": 32768},
    "mistral": {**_LLAMA, **_WINDOW, "intermediate_size": 14336, "num_key_value_heads": 8},
}

_NOTE: Final = "A text decoder; room for its towers is reserved, their activations are not counted."


def unwrap(config: Config) -> tuple[Config, str]:
    """Return the text decoder's config and a note on what it leaves out; else the config itself.

    Raises:
        SpecError: the inner config is no object.
    """
    for key in _TEXT_KEYS:
        inner = section(config, key)
        if inner is not None:
            return _completed(config, inner), _NOTE
    family = config.get("model_type")
    if isinstance(family, str) and family in _FLAT:
        return {**config, "model_type": _FLAT[family]}, _NOTE
    return config, ""


def _completed(outer: Config, inner: Config) -> Config:
    family = str(inner.get("model_type") or f"{outer.get('model_type')}_text")
    family = _SAME_AS.get(family, family)
    # If the inner config does not say whether embeddings are tied, that was decided, and written,
    # for the whole model.
    tied = {
        key: outer[key]
        for key in ("tie_word_embeddings",)
        if key not in inner and outer.get(key) is not None
    }
    return {**_CLASS_DEFAULTS.get(family, {}), **tied, **inner, "model_type": family}
