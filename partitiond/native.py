"""Compiles the proxy's hot path, and the planner's inner loops.

    python -m partitiond.native            compile both for this Python, unless that was done before
    python -m partitiond.native planner    compile the planner's loops alone (`proxy`: the hot path)

mypyc (the compiler that comes with mypy) compiles the same sources to C by the types that are
checked anyway. The result lies in the user's cache under a hash of the sources, so that it is never
older than the sources; results of former sources stay there. Where there is no result, or a
damaged one, the sources run as they are: the proxy at twice the CPU time, and the planner's loops
at fifty times. `PARTITIOND_NATIVE=0` in the environment asks for the proxy's uncompiled sources.
"""

import concurrent.futures
import hashlib
import importlib.metadata
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
LEVEL: Final = "MYPYC_OPT_LEVEL"
"""Of the C compiler's optimization of the hot path, 2 by default: each has a build of its own."""
PROXY: Final = (
    "core/dispatch/admission",
    "core/dispatch/affinity",
    "core/dispatch/balance",
    "core/dispatch/dispatcher",
    "core/dispatch/estimates",
    "core/dispatch/fair_keys",
    "core/dispatch/fair_queue",
    "core/dispatch/fleet",
    "core/dispatch/host_moves",
    "core/dispatch/pace",
    "core/dispatch/peer_loads",
    "core/dispatch/places",
    "core/dispatch/quarantine",
    "core/dispatch/reputation",
    "core/dispatch/speeds",
    "core/keys/tokens_charged",
    "core/keys/rates_and_budgets",
    "core/keys/wall_clock",
    "core/numbers/mean",
    "proxy/dispatch/live_requests",
    "proxy/dispatch/ledger",
    "proxy/dispatch/live",
    "proxy/dispatch/places",
    "proxy/dispatch/replicas",
    "proxy/dispatch/shared",
    "proxy/dispatch/worker_queue",
    "proxy/edge/answer",
    "proxy/edge/attempt",
    "proxy/edge/data_protocol",
    "proxy/edge/exchange",
    "proxy/edge/heads",
    "proxy/edge/host_search",
    "proxy/edge/incoming",
    "proxy/edge/known_heads",
    "proxy/edge/phases",
    "proxy/edge/request_connection",
    "proxy/edge/state",
    "proxy/engine/events",
    "proxy/engine/framing",
    "proxy/engine/upstream",
    "proxy/keys/accounts",
    "proxy/keys/auth",
    "proxy/peer_server/request",
    "proxy/peer_server/server",
    "proxy/peers/hop",
    "proxy/peers/host",
    "proxy/peers/known",
    "proxy/peers/pool",
    "proxy/request/dialects",
    "proxy/request/requests",
    "proxy/request/scan",
    "proxy/telemetry/counters",
    "proxy/telemetry/record",
)
"""Modules on a request's path."""
PLANNER: Final = ("planner/columns/pricing", "planner/kernels/anneal", "planner/kernels/loads")
"""The inner loops of planning: steps of a search, and prices of devices."""

_PACKAGE: Final = Path(partitiond.__file__).parent
_SLOTS: Final = re.compile(r"(@dataclasses\.dataclass\([^)@]*?),? ?slots=True")
"""Removes slots: a compiled class has them anyway, and mypyc's dataclasses refuse the option."""
_BUILD_SECONDS: Final = 1800
"""Limit for hangs: a minute and a half on two idle cores, five minutes where they are in use."""
_SETUP: Final = """
import concurrent.futures, os, sys
from setuptools import setup
from distutils.ccompiler import CCompiler
from mypyc.build import mypycify

def at_the_same_time(compiler, sources, *words, one=CCompiler.compile, **more):
    made = pool.map(lambda source: one(compiler, [source], *words, **more), sources)
    return [name for names in made for name in names]  # after a failure nothing more is begun

pool = concurrent.futures.ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0))))
CCompiler.compile = at_the_same_time
words = ["--config-file", "mypy.ini", "--follow-imports=silent", *sys.argv[1:]]
level = os.environ["MYPYC_OPT_LEVEL"]
extensions = mypycify(words, opt_level=level, debug_level="0", multi_file=True)
for extension in extensions:
    extension.extra_compile_args = [*extension.extra_compile_args, "-fvisibility=hidden"]
setup(name="native", ext_modules=extensions, script_args=["build_ext", "--inplace"])
"""
"""Compiles the files of its command line: the C compiler takes one each, at most eight at a time
for their memory, and calls go straight to them. mypyc's own command makes one file for one core."""
UNCOMPILED: Final = "Uncompiled the proxy takes 2 times the CPU time, the planner's loops 50 times"
_COMPLETE: Final = "complete"
"""File that is written last: the size and the name of each library."""
Modules = tuple[str, ...]


def fingerprint(modules: Modules) -> str:
    """A hash of the sources, and of the Python and the librt that they are compiled for."""
    compiled_for = f"{sysconfig.get_config_var('EXT_SUFFIX')} {importlib.metadata.version('librt')}"
    digest = hashlib.sha256(f"{compiled_for} {_level(modules)}".encode())
    for name in modules:
        digest.update(name.encode() + (_PACKAGE / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


def _level(modules: Modules) -> str:
    return os.environ.get(LEVEL, "2") if modules is PROXY else "2"


def folder(modules: Modules) -> Path:
    """The folder of the compiled modules of these sources, whether or not it exists."""
    base = os.environ.get(FOLDER)
    try:
        cache = Path(base) if base else platformdirs.user_cache_path("partitiond") / "native"
    except RuntimeError:  # this user has no home folder: nothing can be there
        cache = Path(os.devnull)
    return cache / fingerprint(modules)


def is_built(modules: Modules) -> bool:
    """Whether the compiled modules exist, each as large as it was made."""
    target = folder(modules)
    try:
        told = (target / _COMPLETE).read_text()
        return bool(told) and told == _sizes(target)
    except (OSError, UnicodeDecodeError):
        return False


def _sizes(target: Path) -> str:
    files = sorted(target.rglob("*.so"))
    return "".join(f"{file.stat().st_size} {file.relative_to(target)}\n" for file in files)


def activate(modules: Modules) -> bool:
    """Make imports find the compiled modules; return whether there are any.

    Call it before any of the modules is imported.
    """
    switched_off = modules is PROXY and os.environ.get(SWITCH) == "0"
    if switched_off or not is_built(modules):
        return False
    built = folder(modules)
    sys.path.append(str(built))  # the modules share code, in a separate module
    for package in sorted({name.rpartition("/")[0] for name in modules}):
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


def build(modules: Modules) -> Path:
    """Compile modules, and return their folder.

    Raises:
        RuntimeError: the compiler refused; its output is the message.
    """
    target = folder(modules)
    if is_built(modules):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        work = Path(name)
        shutil.copytree(
            _PACKAGE,
            work / "partitiond",
            ignore=shutil.ignore_patterns("*.so", "__pycache__"),
            copy_function=os.symlink,
        )
        files = [f"partitiond/{module}.py" for module in modules]
        for file in files:
            path = work / file
            text = _SLOTS.sub(r"\1", path.read_text()).replace("dataclass(, ", "dataclass(")
            path.unlink()
            path.write_text(text)
        (work / "mypy.ini").write_text("[mypy]\nignore_missing_imports = True\n")
        done = subprocess.run(
            [sys.executable, "-c", _SETUP, *files],
            cwd=work, env={**os.environ, LEVEL: _level(modules)},
            capture_output=True, text=True, check=False, timeout=_BUILD_SECONDS,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError((done.stdout + done.stderr)[-4000:])
        made = work / "made"
        for library in [*work.glob("*.so"), *work.glob("partitiond/**/*.so")]:
            place = made / library.relative_to(work)
            place.parent.mkdir(parents=True, exist_ok=True)
            library.replace(place)
        (made / _COMPLETE).write_text(_sizes(made))
        try:
            if target.exists():  # it is damaged
                target.rename(work / "damaged")
            made.rename(target)
        except OSError:  # another process was faster
            if not is_built(modules):
                raise
    return target


def main() -> int:
    """Compile, or say why not; a host that cannot compile does not fail the installation."""
    named = {"planner": PLANNER, "proxy": PROXY}
    if not {*sys.argv[1:]} <= {*named}:
        sys.exit(f"Name {' or '.join(named)}, or nothing to compile both.")
    left = {name: named[name] for name in sys.argv[1:] or named if not is_built(named[name])}
    if not left:
        return 0
    reason = problem()
    if reason is not None:
        print(f"Nothing is compiled: {reason}. {UNCOMPILED}.")
        return 0
    print(f"Compiling the hot path of the {' and the '.join(left)} (a minute or two)")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        builds = [pool.submit(build, part) for part in left.values()]
    failed = [error for one in builds if (error := one.exception()) is not None]
    if failed:
        print(*failed, f"{UNCOMPILED}.", sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
