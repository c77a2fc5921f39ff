"""Holds configs of public models outside the catalog: the keys that counting needs."""

import json
from pathlib import Path
from typing import Any


def config_of(family: str, *widths: int, **more: Any) -> dict[str, Any]:
    """A config in the keys that most families share.

    Widths: hidden, intermediate, layers, heads, KV heads, vocabulary.
    """
    hidden, inner, layers, heads, kv_heads, vocab = widths
    return {
        "model_type": family,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": 4096,
        **more,
    }


def _rows(name: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name(name).read_text())
    return found


ROWS, RECENT = _rows("public.json"), _rows("recent.json")
"""Configs by name, with the published parameters and their source where they are known; those of
2025 and 2026 (of a decoder, where it sees) apart, with the family that is refused where one is."""
PUBLIC: dict[str, dict[str, Any]] = {name: row["config"] for name, row in ROWS.items()}
