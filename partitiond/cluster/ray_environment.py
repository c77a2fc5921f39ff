"""Finds the Python environment that has Ray, and makes one.

The order is: the interpreter that the settings name; this one, if Ray is installed beside
partitiond (`partitiond[cluster]`); the managed one (`partitiond setup engine install ray`). All
hosts of a cluster need the same version of Ray and the same minor version of Python, so that one
is pinned.
"""

import contextlib
import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from partitiond.core.errors import SettingsError
from partitiond.engines.install.install import (
    EnvironmentMaker,
    note_complete,
    one_at_a_time,
    open_to_all,
)
from partitiond.engines.install.uv_run import InstallProgress, UvWatch

RAY_VERSION: Final = "2.60.0"
"""The version that all of this is tested with."""
LEAST_VERSION: Final = (2, 52)
"""The first version with authentication by a token."""
MARKER: Final = "partitiond-ray.json"
"""Written into a managed environment last: without it, the installation was interrupted."""
UNPACKED_BYTES: Final = 280_000_000
"""Roughly the bytes that uv writes in all; only the progress bar uses this."""
QUESTION_SECONDS: Final = 30.0
"""Python has to start and to read one version, on a machine that may be busy."""

_QUESTION: Final = "import importlib.metadata as m; print(m.version('ray'))"


@dataclasses.dataclass(frozen=True, slots=True)
class RayEnvironment:
    """A Python environment with Ray in it.

    Attributes:
        python: its interpreter.
        version: Ray's version, as "2.60.0".
    """

    python: Path
    version: str


def find_ray(settings_python: Path | None, clusters_dir: Path) -> RayEnvironment:
    """Return the environment to run Ray with. May start a short process.

    Args:
        settings_python: `cluster.python` of the settings; it is used or refused, never skipped.
        clusters_dir: where managed environments lie.

    Raises:
        SettingsError: there is none, or it is too old.
    """
    if settings_python is not None:
        version = _version_of(settings_python)
        if version is None:
            raise SettingsError(
                f"{settings_python} has no Ray, or is no Python.",
                hint="Correct [cluster] python, or remove it and run `partitiond setup engine "
                "install ray`.",
                facts={"python": str(settings_python)},
            )
        return _require_tokens(RayEnvironment(settings_python.absolute(), version))
    with contextlib.suppress(metadata.PackageNotFoundError):
        own = Path(sys.executable).absolute()
        return _require_tokens(RayEnvironment(own, metadata.version("ray")))
    managed = managed_ray(clusters_dir)
    if managed is not None:
        return managed
    raise SettingsError(
        "there is no Ray on this host, which carries messages between hosts.",
        hint="Run `partitiond setup engine install ray`, or install partitiond[cluster].",
        facts={"clusters_dir": str(clusters_dir)},
    )


def managed_ray(clusters_dir: Path) -> RayEnvironment | None:
    """Return the completely installed managed environment of the pinned version, or None."""
    folder = environment_folder(clusters_dir)
    python = folder / "bin" / "python"
    done = (folder / MARKER).exists() and python.exists()
    return RayEnvironment(python, RAY_VERSION) if done else None


def environment_folder(clusters_dir: Path) -> Path:
    """Return the folder of the managed environment."""
    return clusters_dir / f"ray-{RAY_VERSION}"


def _version_of(python: Path) -> str | None:
    """Return the version of an interpreter's Ray, which is not imported; None without Ray."""
    try:
        answer = subprocess.run(
            [str(python.absolute()), "-I", "-c", _QUESTION],
            capture_output=True,
            text=True,
            timeout=QUESTION_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _require_tokens(environment: RayEnvironment) -> RayEnvironment:
    parts = environment.version.split(".")[:2]
    if not all(part.isdigit() for part in parts) or tuple(map(int, parts)) < LEAST_VERSION:
        raise SettingsError(
            f"{environment.python} has Ray {environment.version}, which knows no token.",
            hint=f"Install ray=={RAY_VERSION} there.",
            facts={"python": str(environment.python), "version": environment.version},
        )
    return environment


def install_ray(
    clusters_dir: Path, sources: Sequence[str], progress: InstallProgress | None = None
) -> RayEnvironment:
    """Make the managed environment, or return it if it is there and complete.

    `progress(text, fraction)` is called at least once a second.

    Raises:
        EngineUnavailableError: a source cannot be reached or lacks a package, or the result does
            not import. A half-made environment is never used.
    """
    tell = progress or (lambda _text, _fraction: None)
    clusters_dir.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(clusters_dir / ".ray.lock", tell) as lock:
        found = managed_ray(clusters_dir)
        if found is not None:
            tell("Ray is installed already", 1.0)
            return found
        folder = environment_folder(clusters_dir)
        shutil.rmtree(folder, ignore_errors=True)
        maker = EnvironmentMaker(folder, sources, tell, lock)
        maker.make_environment()
        watch = UvWatch(tell, f"fetching ray {RAY_VERSION}", 0.03, 0.75, UNPACKED_BYTES)
        maker.uv(["pip", "install", f"ray=={RAY_VERSION}"], "install Ray", watch)
        shutil.rmtree(maker.cache, ignore_errors=True)
        maker.try_import("import ray", "Ray")
        open_to_all(folder)
        note_complete(folder / MARKER, {"version": RAY_VERSION})
        tell("Ray is installed", 1.0)
    return RayEnvironment(folder / "bin" / "python", RAY_VERSION)
