"""Builds the upstream and the client from C on demand, and runs them as processes."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

import platformdirs

from bench.processes import pinned, runs_first, stop

SOURCES: Final = Path(__file__).parent / "csrc"
FLAGS: Final = ("-O2", "-Wall", "-Wextra")


def cache_folder() -> Path:
    """The folder of built programs and of other proxies' environments."""
    return platformdirs.user_cache_path("partitiond") / "bench"


def build(name: str) -> Path:
    """The program made from `csrc/NAME.c`, compiled unless it is in the cache.

    Raises:
        SystemExit: there is no C compiler, or it refuses the source.
    """
    texts = [(SOURCES / file).read_bytes() for file in (f"{name}.c", "wire.h")]
    digest = hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]
    program = cache_folder() / "native" / f"{name}-{digest}"
    if program.exists():
        return program
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        sys.exit(
            "The benchmark's upstream and client are C programs, and there is no C compiler here. "
            "Install one (Debian: apt-get install gcc libc6-dev), or name one in CC."
        )
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        made = Path(folder) / name
        done = subprocess.run(
            [compiler, *FLAGS, "-o", str(made), str(SOURCES / f"{name}.c")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{compiler} could not build {name}.c:\n{done.stderr}")
        made.replace(program)  # atomic: two runs may build at the same time
    return program


@contextlib.contextmanager
def awake(cores: Collection[int | None]) -> Iterator[None]:
    """Keep the cores from idling while the block runs; does nothing without `run_first`.

    A request of one client leaves every core idle several times. On a busy machine other programs
    run there meanwhile and push the proxies out of the caches, which costs a request through two
    proxies more than one through one. On a virtual machine, a core that sleeps wakes slowly.
    """
    with contextlib.ExitStack() as stack:
        for core in {core for core in cores if core is not None} if runs_first() else ():
            with pinned(core):
                stack.callback(stop, subprocess.Popen([build("spin")]))
        yield


@dataclasses.dataclass(frozen=True, slots=True)
class Upstream:
    """A running upstream: one program on a port and on a Unix socket."""

    pid: int
    port: int
    path: str


@contextlib.contextmanager
def upstream(folder: Path, core: int | None) -> Iterator[Upstream]:
    """Run the upstream while the block runs."""
    path = str(folder / "engine.sock")
    with pinned(core):
        child = subprocess.Popen(
            [build("upstream"), "--unix", path], stdout=subprocess.PIPE, text=True
        )
    try:
        assert child.stdout is not None
        yield Upstream(child.pid, json.loads(child.stdout.readline())["port"], path)
    finally:
        stop(child)


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """The load of one run of the client; see `csrc/client.c`.

    Attributes:
        chunks, rate: chunks of each stream, and chunks per second (0: unpaced; -K: one in K s).
        once: one request per connection instead of one after the other.
        grace: seconds after which streams that have not ended are aborted.
        warm: seconds at the start whose latencies and delays are not counted.
        addresses: number of the client's addresses, in 127.0.0.0/8.
        ramp: most connections that are being opened at a time.
        announce: write the line "open" once every stream has begun.
        loose: accept any answer with status 200 (for proxies that rewrite answers).
    """

    mode: str
    connections: int
    seconds: float
    chunks: int = 1
    rate: int = 0
    once: bool = False
    usage: bool = False
    loose: bool = False
    grace: float = 5.0
    warm: float = 0.0
    addresses: int = 1
    ramp: int = 512
    announce: bool = False

    def words(self) -> list[str]:
        """The load as options of the client."""
        values = {
            k: int(v) if isinstance(v, bool) else v for k, v in dataclasses.asdict(self).items()
        }
        return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def start_client(
    load: Load, port: int, *, key: str = "", core: int | None
) -> "subprocess.Popen[str]":
    """Start the client; `read_report` waits for its end."""
    words = ["--port", str(port), "--key", key, *load.words()]
    with pinned(core):
        return subprocess.Popen([build("client"), *words], stdout=subprocess.PIPE, text=True)


def read_report(client: "subprocess.Popen[str]") -> dict[str, Any]:
    """Wait for a client's end, and return its report."""
    text, _ = client.communicate()
    if client.returncode:
        raise RuntimeError(f"the client ended with {client.returncode}")
    report: dict[str, Any] = json.loads(text)
    return report
