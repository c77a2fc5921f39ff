"""Converts a GGUF file to a folder that vLLM loads: bfloat16 safetensors, config and tokenizer.

Run with the engine's python, which has torch and transformers::

    python convert_gguf.py MODEL.gguf TARGET_FOLDER

transformers dequantises GGUF while reading it; the quantisation that it notes in the config is
removed, because plain bfloat16 is saved. The program prints one line per step, and ends with status
0, or with a one-line message and status 1. It fetches nothing: the environment forbids the hub.
"""

import functools
import os
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"


def _load(gguf: Path) -> tuple[Any, Any]:
    """Return the model and tokenizer of a GGUF file, dequantised to bfloat16."""
    import gguf as library
    import torch
    import transformers

    # transformers reads the file three times, and builds the table of names again for every module,
    # which takes two thirds of the time.
    library.GGUFReader = functools.cache(library.GGUFReader)
    library.get_tensor_name_map = functools.cache(library.get_tensor_name_map)
    where: dict[str, Any] = {
        "pretrained_model_name_or_path": str(gguf.parent),
        "gguf_file": gguf.name,
        "local_files_only": True,
    }
    reading: dict[str, Any] = {"dtype": torch.bfloat16}
    if hasattr(transformers, "GgufConfig"):  # before transformers 5 it always dequantises
        reading["quantization_config"] = transformers.GgufConfig(
            gguf_file=gguf.name, dequantize=True
        )
    config = transformers.AutoConfig.from_pretrained(**where)
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, **reading, config=config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    return model, tokenizer


def convert(gguf: Path, target: Path) -> None:
    """Write the model of `gguf` into the existing folder `target`."""
    print(f"reading {gguf.name}", flush=True)
    model, tokenizer = _load(gguf)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    print("writing weights", flush=True)
    model.save_pretrained(target)
    print("writing tokenizer", flush=True)
    tokenizer.save_pretrained(target)


def main(arguments: list[str]) -> int:
    """Convert the file that the arguments name; returns the exit status."""
    if len(arguments) != 2:
        print("usage: convert_gguf.py MODEL.gguf TARGET_FOLDER", file=sys.stderr)
        return 2
    try:
        convert(Path(arguments[0]), Path(arguments[1]))
    except Exception as error:  # noqa: BLE001  the caller shows this line; a trace helps nobody
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
