"""Runs the command line as a user does: takes arguments, returns exit status and both outputs."""

import asyncio
import dataclasses
import io
import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvicorn
from rich.console import Console, RenderableType

from partitiond.api.app import create_app
from partitiond.cli.main import main
from partitiond.devices.nvml import library_in_use
from tests.api.conftest import TOKEN
from tests.controller.host import Host

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """How one run ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def said(self) -> str:
        """What it told on stderr, in a line."""
        return " ".join(self.err.split())

    @property
    def shown(self) -> str:
        """What it printed, in a line."""
        return " ".join(self.out.split())

    def refused(self, code: int, *words: str) -> None:
        """Assert that it ended so, with these words, and printed nothing."""
        assert self.out == ""
        self.ended(code, *words)

    def ended(self, code: int, *words: str) -> "Result":
        """Assert that it ended so, with these words in what it printed and told."""
        both = f"{self.shown} {self.said}"
        assert self.code == code, self.err
        assert "Traceback" not in self.err
        assert [word for word in words if word not in both] == [], both
        return self


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
    """Run `partitiond` with these arguments at 80 columns; the first one may be several words."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        words, rest = str(arguments[0]).split() if arguments else [], arguments[1:]
        with pytest.raises(SystemExit) as ended:
            main([*words, *map(str, rest)])
        captured = capsys.readouterr()
        code = ended.value.code
        return Result(code if isinstance(code, int) else 1, captured.out, captured.err)

    return run


def commands(group: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command below a group, with its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*above, name))
        else:
            yield (*above, name), command


def text_of(drawn: RenderableType, width: int = 80) -> str:
    """What is drawn on a terminal of so many columns."""
    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    console.print(drawn, crop=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def widest(text: str) -> int:
    """Columns of the longest line."""
    return max(len(line.rstrip()) for line in text.splitlines())


class ServedApi:
    """The control API on one port; it may end and come back. Nothing follows from what its host is
    told before that is `started`.
    """

    def __init__(self) -> None:
        self.host = Host()
        self.port = 0
        self.start()

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        app = create_app(self.host.service, admin_token=TOKEN)
        config = uvicorn.Config(app, log_level="critical", lifespan="off")
        self._server = uvicorn.Server(config)
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._runner:
            self._runner.run(self._server.serve(sockets=[self._listener]))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do this where the API is."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._listener.close()

    def close(self) -> None:
        """End it, and what it began."""
        self.run(self.host.service.daemon.shutdown(stop_engines=True))
        self.stop()
        self.host.store.close()


@pytest.fixture
def served(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServedApi]:
    """What commands take for the daemon."""
    here = ServedApi()
    monkeypatch.setenv("PARTITIOND_URL", here.url)
    monkeypatch.setenv("PARTITIOND_TOKEN", TOKEN)
    yield here
    here.close()


@pytest.fixture
def host(served: ServedApi) -> Host:
    """The control plane behind it."""
    return served.host


@pytest.fixture
def started(served: ServedApi) -> Host:
    """The same, with its loop."""
    served.run(served.host.service.daemon.start())
    return served.host


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The root folder of an image, with a file of its own where a setup writes others."""
    for program in ("systemd-sysusers", "systemd-tmpfiles", "systemctl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed here")
    if os.geteuid() != 0:
        pytest.skip("systemd's own programs write users into an image only for root")
    root = tmp_path / "image"
    (root / "etc/tmpfiles.d").mkdir(parents=True)
    (root / "etc/tmpfiles.d/mine.conf").write_text("# mine\n")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    return root
