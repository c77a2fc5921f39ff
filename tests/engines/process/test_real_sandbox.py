"""A real engine starts and answers in the place that the sandbox's program makes for it."""

from pathlib import Path

import pytest

from partitiond.engines.install.environment import EngineEnvironment
from partitiond.engines.process.engine_user import EngineUser
from partitiond.engines.process.runner import ProcessEngineRunner
from tests import engine_fixtures
from tests.engine_fixtures import chat_model_folder, engine_environment, short_dir
from tests.engines.process.scripts import Launcher

__all__ = ["chat_model_folder", "engine_environment", "short_dir"]


@pytest.mark.engine
@pytest.mark.soak
async def test_a_real_engine_starts_and_answers(
    short_dir: Path,
    launcher: Launcher,
    engine_environment: EngineEnvironment,
    chat_model_folder: Path,
) -> None:
    models = chat_model_folder.parent
    user = EngineUser(
        launcher.path, engine_fixtures.engine_cache_dir(), models, hidden=(), shown=models
    )
    runner = ProcessEngineRunner(
        short_dir, engine_environment, cache_dir=engine_fixtures.engine_cache_dir(), user=user
    )
    handle = await runner.start(engine_fixtures.vllm_launch(chat_model_folder))
    try:
        report = await runner.wait_ready(handle, 300)
        assert report.kv_cache_tokens
        assert await runner.probe(handle, 10)
        assert len(launcher.started) == 1
    finally:
        await runner.stop(handle, 10)
