"""Counts parameters as transformers allocates them, on the meta device.

The script runs in the engine's environment and uses nothing of ours: it reads configs as a JSON
list on standard input, and writes counts as a JSON list.
"""

import json
import sys
from typing import Any

ENCODERS = ("bert", "modernbert", "roberta", "xlm-roberta")


def count(config: dict[str, Any]) -> int | str:
    """Parameters, tied ones once; or why transformers cannot build the model."""
    import torch
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
    )

    values = {key: value for key, value in config.items() if key != "quantization_config"}
    family = values.pop("model_type")
    try:
        with torch.device("meta"):
            auto: Any = AutoModelForCausalLM
            if family in ENCODERS:
                ranks = "ForSequenceClassification" in values["architectures"][0]
                auto = AutoModelForSequenceClassification if ranks else AutoModel
            model = auto.from_config(AutoConfig.for_model(family, **values))
    except (AssertionError, KeyError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return int(sum(parameter.numel() for parameter in model.parameters()))


if __name__ == "__main__":
    print(json.dumps([count(config) for config in json.load(sys.stdin)]))
