"""Compiles the proxy's hot path and the planner's inner loop.

    python -m partitiond.native            compile it for this Python, unless that was done before
    python -m partitiond.native --check    say whether the proxy will run compiled

mypyc (the compiler that comes with mypy) compiles the same sources to C by the types that are
checked anyway. The result lies in the user's cache under a hash of the sources, so that it is never
older than the sources. A proxy that finds no result runs the sources as they are, which is only
slower. `PARTITIOND_NATIVE=0` in the environment asks for the uncompiled sources.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

import platformdirs

import partitiond

SWITCH: Final = "PARTITIOND_NATIVE"
FOLDER: Final = "PARTITIOND_NATIVE_DIR"
MODULES: Final = (
    "core/dispatch/admission",
    "core/dispatch/affinity",
    "core/dispatch/balance",
    "core/dispatch/dispatcher",
    "core/dispatch/estimates",
    "core/dispatch/fair_keys",
    "core/dispatch/fair_queue",
    "core/dispatch/fleet",
    "core/dispatch/host_affinity",
    "core/dispatch/host_moves",
    "core/dispatch/pace",
    "core/dispatch/peer_loads",
    "core/dispatch/places",
    "core/dispatch/quarantine",
    "core/dispatch/reputation",
    "core/keys/charging",
    "core/keys/rates",
    "planner/columns/pricing",
    "proxy/dispatch/flights",
    "proxy/dispatch/ledger",
    "proxy/dispatch/live",
    "proxy/dispatch/places",
    "proxy/dispatch/replicas",
    "proxy/dispatch/shared",
    "proxy/dispatch/worker_queue",
    "proxy/edge/answer",
    "proxy/edge/attempt",
    "proxy/edge/client_connection",
    "proxy/edge/data_protocol",
    "proxy/edge/exchange",
    "proxy/edge/heads",
    "proxy/edge/host_search",
    "proxy/edge/incoming",
    "proxy/edge/known_heads",
    "proxy/edge/phases",
    "proxy/edge/state",
    "proxy/engine/events",
    "proxy/engine/framing",
    "proxy/engine/upstream",
    "proxy/keys/accounts",
    "proxy/keys/auth",
    "proxy/peer_server/connection",
    "proxy/peer_server/request",
    "proxy/peers/hop",
    "proxy/peers/host",
    "proxy/peers/known",
    "proxy/peers/pool",
    "proxy/request/dialects",
    "proxy/request/requests",
    "proxy/telemetry/counters",
    "proxy/telemetry/record",
)
"""Modules on a request's path, and the inner loop of planning."""

_PACKAGE: Final = Path(partitiond.__file__).parent
_SLOTS: Final = re.compile(r"(@dataclasses\.dataclass\([^)]*?),? ?slots=True")
"""Removes slots: a compiled class has them anyway, and mypyc's dataclasses refuse the option."""
_BUILD_SECONDS: Final = 1800
"""Limit for hangs: half a minute on an idle machine, over ten minutes with both cores in use."""
UNCOMPILED: Final = "The proxy will run uncompiled, at about twice the CPU time"


def fingerprint() -> str:
    """A hash of the sources and of the Python that they are compiled for."""
    digest = hashlib.sha256(str(sysconfig.get_config_var("EXT_SUFFIX")).encode())
    for name in MODULES:
        digest.update(name.encode() + (_PACKAGE / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


def folder() -> Path:
    """The folder of the compiled modules of these sources, whether or not it exists."""
    base = os.environ.get(FOLDER)
    cache = Path(base) if base else platformdirs.user_cache_path("partitiond") / "native"
    return cache / fingerprint()


def is_built() -> bool:
    """Whether the compiled modules exist."""
    return (folder() / "complete").exists()


def activate(part: str = "") -> bool:
    """Make imports find the compiled modules; return whether there are any.

    Call it before any of the modules is imported.

    Args:
        part: what the names of the modules begin with; empty for all.
    """
    if os.environ.get(SWITCH) == "0" or not is_built():
        return False
    built = folder()
    sys.path.append(str(built))  # the modules share code, in a separate module
    for package in sorted({name.rpartition("/")[0] for name in MODULES if name.startswith(part)}):
        module = importlib.import_module(f"partitiond.{package.replace('/', '.')}")
        module.__path__.insert(0, str(built / "partitiond" / package))
    return True


def problem() -> str | None:
    """Why nothing can be compiled here, or None."""
    if importlib.util.find_spec("mypyc") is None:
        return "mypy is not installed: pip install mypy setuptools"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if not any(shutil.which(name) for name in (os.environ.get("CC", compiler), "cc", "gcc")):
        return "there is no C compiler (Debian: apt-get install gcc libc6-dev)"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python's headers are missing (Debian: apt-get install python3-dev)"
    return None


def build() -> Path:
    """Compile the modules, and return their folder.

    Raises:
        RuntimeError: the compiler refused; its output is the message.
    """
    target = folder()
    if is_built():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        work = Path(name)
        shutil.copytree(_PACKAGE, work / "partitiond", ignore=shutil.ignore_patterns("*.so"))
        files = [f"partitiond/{module}.py" for module in MODULES]
        for file in files:
            path = work / file
            path.write_text(
                _SLOTS.sub(r"\1", path.read_text()).replace("dataclass(, ", "dataclass(")
            )
        (work / "mypy.ini").write_text("[mypy]\nignore_missing_imports = True\n")
        done = subprocess.run(
            [sys.executable, "-m", "mypyc", "--config-file", "mypy.ini",
             "--follow-imports=silent", *files],
            cwd=work, capture_output=True, text=True, check=False, timeout=_BUILD_SECONDS,
            env={"MYPYC_OPT_LEVEL": "2", **os.environ, "MYPYC_DEBUG_LEVEL": "0"},
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError((done.stdout + done.stderr)[-4000:])
        made = work / "made"
        for library in [*work.glob("*.so"), *work.glob("partitiond/**/*.so")]:
            place = made / library.relative_to(work)
            place.parent.mkdir(parents=True, exist_ok=True)
            library.replace(place)
        (made / "complete").touch()
        try:
            made.rename(target)
        except OSError:  # another process was faster
            if not is_built():
                raise
    return target


def main() -> int:
    """Compile, or say why not; a host that cannot compile does not fail the installation."""
    if "--check" in sys.argv[1:]:
        print(f"compiled: {folder()}" if is_built() else "not compiled")
        return 0 if is_built() else 1
    if is_built():
        return 0
    reason = problem()
    if reason is not None:
        print(f"{UNCOMPILED}: {reason}.")
        return 0
    print("Compiling the proxy's hot path and the planner's inner loop (about half a minute)")
    try:
        build()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        print(f"{UNCOMPILED}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
