"""A tiny model on the real engine comes up as the shipped record says."""

import pytest

from partitiond.engines.install.environment import EngineEnvironment
from partitiond.models.check_starts import start_once
from partitiond.models.start_results import load_starts, tiny_configs
from tests.engine_fixtures import engine_environment  # noqa: F401

pytestmark = pytest.mark.engine


@pytest.mark.full
@pytest.mark.parametrize("key", ["gemma3_text / MQA, alternating window"])
async def test_a_start_is_what_was_recorded(
    key: str,
    engine_environment: EngineEnvironment,  # noqa: F811
) -> None:
    start, version = await start_once(engine_environment.python, tiny_configs()[key])
    assert version == load_starts().engine_version
    assert start == load_starts().architectures[key]
