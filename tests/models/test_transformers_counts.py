"""Every count equals that of the model that transformers builds."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.model.families import FAMILIES, architecture_from_config
from partitiond.engines.install.environment import EngineEnvironment
from partitiond.models.catalog import CATALOG
from tests.core.model.families.configs import PUBLIC
from tests.core.model.families.variants import variants
from tests.engine_fixtures import engine_environment  # noqa: F401 - a fixture

ORACLE = Path(__file__).with_name("transformers_oracle.py")
TOLD = Path(__file__).with_name("transformers_counts.json")
"""Parameters of each config: what `transformers_oracle` wrote."""
SAME_WEIGHTS_AS = {"internlm2": "llama", "exaone": "llama", "minicpm": "llama", "mimo": "qwen2"}
"""Families whose code is in their repositories, and those whose weights they have."""


def for_transformers(config: dict[str, Any]) -> dict[str, Any]:
    family = SAME_WEIGHTS_AS.get(config["model_type"])
    if family is None:
        return config
    tied = {"tie_word_embeddings": config["model_type"] == "minicpm"}
    return {**tied, **config, "model_type": family}


def configs() -> dict[str, dict[str, Any]]:
    named = {name: dict(entry.config) for name, entry in CATALOG.items()}
    del named["jina-embeddings-v3"]  # its rotary positions are code in its repository
    return named | PUBLIC | {f"variant {n}": config for n, config in enumerate(variants())}


def test_counts_are_those_that_transformers_told() -> None:
    ours = {name: architecture_from_config(c).parameters for name, c in configs().items()}
    assert ours == json.loads(TOLD.read_bytes())
    assert {config["model_type"] for config in configs().values()} == set(FAMILIES)


@pytest.mark.engine
@pytest.mark.soak
def test_transformers_tells_the_same_today(
    engine_environment: EngineEnvironment,  # noqa: F811
) -> None:
    """Where it does not, because a model or transformers is new: write what it tells to TOLD."""
    finished = subprocess.run(
        [str(engine_environment.python), str(ORACLE)],
        input=json.dumps([for_transformers(config) for config in configs().values()]),
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = dict(zip(configs(), json.loads(finished.stdout.splitlines()[-1]), strict=True))
    assert theirs == json.loads(TOLD.read_bytes())
