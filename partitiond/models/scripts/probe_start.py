"""Starts one model in the engine's environment and prints the result as JSON on the last line.

The program runs with the engine's interpreter and imports nothing of partitiond: `python
probe_start.py FOLDER`. The engine's core runs in this very process, so that its decisions can be
read: the class that serves the model, the attention backends, the specification of its KV cache,
the bytes of its weights.
"""

import importlib
import json
import os
import sys
import time
from typing import Any

_KV_CACHE_BYTES = 256 * 1024 * 1024
_MAX_MODEL_LEN = 256
_FALLBACK_MODULE = "vllm.model_executor.models.transformers"


def probe(folder: str) -> dict[str, Any]:
    """Load dummy weights, generate two tokens, and describe the engine."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
    vllm: Any = importlib.import_module("vllm")
    weights_bytes = _count_weights()
    started = time.monotonic()
    engine = vllm.LLM(
        model=folder,
        load_format="dummy",
        dtype="bfloat16",
        max_model_len=_MAX_MODEL_LEN,
        max_num_seqs=2,
        max_num_batched_tokens=_MAX_MODEL_LEN,
        kv_cache_memory_bytes=_KV_CACHE_BYTES,
        enforce_eager=True,
        enable_prefix_caching=False,
        disable_log_stats=True,
    )
    answer = engine.generate(
        {"prompt_token_ids": list(range(20, 60))},
        vllm.SamplingParams(max_tokens=2, ignore_eos=True),
        use_tqdm=False,
    )
    runner = engine.llm_engine.model_executor.driver_worker.worker.model_runner
    return {
        "engine_version": vllm.__version__,
        "seconds": round(time.monotonic() - started, 1),
        "tokens": len(answer[0].outputs[0].token_ids),
        "model_class": type(runner.model).__name__,
        "fallback": _is_fallback(runner.model),
        "attention_backends": sorted(_backends(runner)),
        "weights_bytes": weights_bytes[-1],
        "kv_layers": _kv_layers(runner.get_kv_cache_spec()),
    }


def _is_fallback(model: Any) -> bool:
    """Return whether vLLM runs the class of transformers because it has none of its own."""
    return any(kind.__module__.startswith(_FALLBACK_MODULE) for kind in type(model).__mro__)


def _backends(runner: Any) -> set[str]:
    return {group.backend.get_name() for groups in runner.attn_groups for group in groups}


def _count_weights() -> list[int]:
    """Make the loader note the bytes of the weights before it packs them for the device."""
    base_loader: Any = importlib.import_module("vllm.model_executor.model_loader.base_loader")
    noted: list[int] = []
    pack = base_loader.process_weights_after_loading

    def noting(model: Any, *arguments: Any, **options: Any) -> Any:
        # Counted by storage, so that tied embeddings count once.
        sizes = {p.data_ptr(): p.numel() * p.element_size() for p in model.parameters()}
        noted.append(sum(sizes.values()))
        return pack(model, *arguments, **options)

    base_loader.process_weights_after_loading = noting
    return noted


def _kv_layers(specification: dict[str, Any]) -> list[dict[str, Any]]:
    """Kind, bytes and tokens of a block, and window of every layer."""
    return [
        {
            "kind": type(layer).__name__,
            "kv_bytes_per_block": _unpadded_bytes(layer),
            "block_tokens": layer.block_size,
            "window_tokens": getattr(layer, "sliding_window", None),
        }
        for layer in specification.values()
    ]


def _unpadded_bytes(layer: Any) -> int:
    """Return bytes of a block without padding; hybrids pad theirs to the size of a state."""
    real = getattr(layer, "real_page_size_bytes", None)
    return int(layer.page_size_bytes if real is None else real)


if __name__ == "__main__":
    outcome = probe(sys.argv[1])
    print(json.dumps(outcome), flush=True)
    os._exit(0)  # without waiting for the engine's threads
