"""Runs the command line as a user does: takes arguments, returns exit status and both outputs."""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from partitiond.cli.main import main
from partitiond.devices.nvml import library_in_use


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """How one run ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Result]


@pytest.fixture(autouse=True)
def library_afterwards() -> Iterator[None]:
    """A command leaves its NVML library to the process it runs in, which is the tests' here."""
    with library_in_use(None):
        yield


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A private state, run and cache folder with a short path, and ports nobody listens on."""
    folder = Path(tempfile.mkdtemp(prefix="pt-"))
    for name in ("state", "run", "cache"):
        monkeypatch.setenv(f"PARTITIOND_{name.upper()}_DIR", str(folder / name))
    monkeypatch.setenv("PARTITIOND_CONTROL__PORT", "1")  # tcpmux: nothing serves it
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.delenv("PARTITIOND_CONFIG", raising=False)
    monkeypatch.delenv("PARTITIOND_URL", raising=False)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cli(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run `partitiond` with these arguments, at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        code = ended.value.code
        return Result(code if isinstance(code, int) else 1, captured.out, captured.err)

    return run
