"""Builds the simulated libraries, once per version of their sources, by the system's compiler."""

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import platformdirs

from partitiond.core.errors import DeviceError

_SOURCES: Final = Path(__file__).parent / "csrc"
_COMMON: Final = ("state.c", "geometry.c")
_LIBRARIES: Final = {
    "libnvidia-ml.so.1": ("nvml_*.c", "call.c", "fields.c"),
    "libcuda.so.1": ("cuda_*.c",),
}
_FLAGS: Final = (
    "-shared", "-fPIC", "-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread",
    "-fvisibility=hidden", "-ldl",
)  # fmt: skip
# No soname: with one, the loader would give a process that opened a simulated host this library
# when the process asks for the driver's.
_BUILD_SECONDS: Final = 120


def build_libraries() -> Path:
    """Return the folder of the built libraries; compile them if their sources are new.

    Raises:
        DeviceError: there is no C compiler, or it fails.
    """
    folder = platformdirs.user_cache_path("partitiond") / "simulated-gpus" / _content_hash()
    if not all((folder / name).exists() for name in _LIBRARIES):
        _build_into(folder)
    return folder


def install_libraries(folder: Path) -> None:
    """Copy the libraries into a host's folder.

    Copies are made, not links: a library finds its host by the location of its file, and the loader
    takes two links to one file for the same library.

    Raises:
        DeviceError: the libraries cannot be built.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        built = build_libraries()
    except OSError:  # without a cache folder, build anew each time
        for name, patterns in _LIBRARIES.items():
            _compile(folder / name, patterns)
        return
    for name in _LIBRARIES:
        shutil.copyfile(built / name, folder / name)
        (folder / name).chmod(0o755)


@functools.cache
def _content_hash() -> str:
    digest = hashlib.sha256(" ".join((_compiler(), *_FLAGS)).encode())
    for path in sorted(_SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:24]


def _compiler() -> str:
    return os.environ.get("CC", "cc")


def _build_into(folder: Path) -> None:
    """Build in a folder next to the target and rename it: a half-built library is never found."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="building-") as scratch:
        built = Path(scratch) / "built"
        built.mkdir()
        for name, patterns in _LIBRARIES.items():
            _compile(built / name, patterns)
        try:
            built.rename(folder)
        except OSError:
            # Another process was faster; its result is the same.
            if not (folder / "libcuda.so.1").exists():
                raise


def _compile(target: Path, patterns: tuple[str, ...]) -> None:
    sources = sorted({path for pattern in (*_COMMON, *patterns) for path in _SOURCES.glob(pattern)})
    command = [_compiler(), "-o", str(target), *map(str, sources), *_FLAGS]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise DeviceError(
            f"The simulated GPU host needs a C compiler, and there is no {_compiler()!r}.",
            hint="Install gcc or clang (apt-get install gcc), or name one in CC.",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"Compiling {target.name} took longer than {_BUILD_SECONDS} seconds.",
            hint="Try again on a less busy machine.",
        ) from error
    if done.returncode != 0:
        raise DeviceError(
            f"{_compiler()} could not compile {target.name}.",
            hint="Its words are in the facts; gcc 9 or clang 10 and newer are known to work.",
            facts={"output": done.stderr[-4000:]},
        )
