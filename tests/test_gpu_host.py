"""A simulated host looks for no vLLM."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.core.errors import EngineUnavailableError
from partitiond.engines.install.finder import EngineFinder
from partitiond.settings.schema import Settings


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: Unix sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="pg-") as found:
        yield Path(found)


def test_on_a_simulated_host_vllm_is_not_looked_for(folder: Path) -> None:
    gpu = {"enabled": True, "simulated_host": str(folder)}
    finder = EngineFinder(Settings.model_validate({"state_dir": str(folder), "gpu": gpu}), "cuda")
    problem = finder.problem()
    assert problem is not None
    assert "--engine-kind simulated" in problem.hint
    assert "install" not in str(problem)
    with pytest.raises(EngineUnavailableError, match="simulated GPU host"):
        finder()
    off = Settings.model_validate({"state_dir": str(folder), "gpu": gpu | {"enabled": False}})
    assert "simulated" not in str(EngineFinder(off, "cuda").problem())
