"""Every count equals that of the model that transformers builds, in one run of its environment."""

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

pytestmark = pytest.mark.engine

ORACLE = Path(__file__).with_name("transformers_oracle.py")
SAME_WEIGHTS_AS = {"internlm2": "llama", "exaone": "llama", "minicpm": "llama", "mimo": "qwen2"}
"""Families whose code is in their repositories, and those whose weights they have."""


def for_transformers(config: dict[str, Any]) -> dict[str, Any]:
    family = SAME_WEIGHTS_AS.get(config["model_type"])
    if family is None:
        return config
    tied = {"tie_word_embeddings": config["model_type"] == "minicpm"}
    return {**tied, **config, "model_type": family}


@pytest.mark.full
def test_counts_are_those_of_transformers(
    engine_environment: EngineEnvironment,  # noqa: F811
) -> None:
    named = {name: dict(entry.config) for name, entry in CATALOG.items()}
    del named["jina-embeddings-v3"]  # its rotary positions are code in its repository
    named |= PUBLIC
    named |= {f"variant {number}": config for number, config in enumerate(variants())}
    finished = subprocess.run(
        [str(engine_environment.python), str(ORACLE)],
        input=json.dumps([for_transformers(config) for config in named.values()]),
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = dict(zip(named, json.loads(finished.stdout.splitlines()[-1]), strict=True))
    ours = {name: architecture_from_config(c).parameters for name, c in named.items()}
    assert ours == theirs
    assert {config["model_type"] for config in named.values()} == set(FAMILIES)
