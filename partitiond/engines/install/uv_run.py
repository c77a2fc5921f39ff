"""Runs the programs of an installation: turns uv's lines into progress and failures into causes."""

import contextlib
import dataclasses
import functools
import os
import re
import selectors
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from partitiond.core.errors import EngineUnavailableError

InstallProgress = Callable[[str, float | None], None]

TICK_SECONDS: Final = 1.0
"""How often progress is reported while a program prints nothing."""

_ENVIRONMENT_KEPT: Final = re.compile(
    r"^(PATH|HOME|LANG|LC_.*|TMPDIR|NETRC|XDG_.*|SSL_.*|.*_proxy|.*_PROXY|.*_CA_BUNDLE"
    # How uv reaches packages. What it may install (UV_CONSTRAINT, UV_REQUIRE_HASHES) is set here.
    r"|UV_((DEFAULT_|EXTRA_)?INDEX|FIND_LINKS|OFFLINE|INSECURE|KEYRING|HTTP|SYSTEM|NATIVE|CACHE"
    r"|CONCURRENT|LINK).*)$"
)


def uv_program() -> str:
    """Return the path of uv, which is installed beside this Python. Raises FileNotFoundError."""
    import uv

    return str(uv.find_uv_bin())


def source_options(
    indexes: Iterable[str] = (), wheel_folders: Iterable[Path] = (), *, offline: bool = False
) -> list[str]:
    """Return options that name sources of packages beside those that uv is configured with (UV_*,
    uv.toml); `offline`: the folders alone. Of all sources, the best version wins.
    """
    folders = [word for folder in wheel_folders for word in ("--find-links", str(folder))]
    if offline:
        return ["--no-index", *folders]
    named = [word for index in indexes for word in ("--index", index)]
    return [*named, "--index-strategy", "unsafe-best-match", *folders]


@dataclasses.dataclass(frozen=True, slots=True)
class UvFinished:
    """The end of a program.

    Attributes:
        code: exit status; None if the program was ended at its deadline.
        lines: everything that the program printed.
    """

    code: int | None
    lines: list[str]


class UvWatch:
    """Repeats one sentence while a program runs, so that a step that prints no lines is not silent.

    Args:
        tell: receives the sentence, and the share of the installation that is done.
        text: the sentence.
        first, last: shares before and after the program.
        expected_bytes: that the program writes in all: by them the share grows meanwhile.
    """

    def __init__(
        self,
        tell: InstallProgress,
        text: str,
        first: float,
        last: float = 0.0,
        expected_bytes: int = 0,
    ) -> None:
        self._tell = functools.partial(tell, text)
        self._first, self._last = first, max(first, last)
        self._expected = max(1, expected_bytes)
        self._written = 0
        self._tell(first)

    def tick(self, pid: int) -> None:
        """Repeat the sentence, with the bytes that process `pid` has written until now."""
        self._written = max(self._written, _written_bytes(pid))
        done = min(1.0, self._written / self._expected)
        self._tell(self._first + (self._last - self._first) * done)


def spoken(name: str) -> str:
    """Return the name people know a package by, which is that of its builds without the suffix."""
    return name.removesuffix("-cpu")


def name_packages(resolved: Mapping[str, str], known: Sequence[str]) -> str:
    """Name the packages that people know, with their versions, and count the other packages."""
    shown = [f"{spoken(name)} {resolved[name]}" for name in known if name in resolved]
    more = len(resolved) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _written_bytes(pid: int) -> int:
    """Return bytes a process has written to files; 0 if the kernel does not say."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        text = Path(f"/proc/{pid}/io").read_text(encoding="ascii")
        return int(next(line for line in text.splitlines() if line.startswith("wchar")).split()[1])
    return 0


def run_uv(
    argv: Sequence[str],
    purpose: str,
    watch: UvWatch,
    *,
    folder: Path,
    environment: Mapping[str, str],
    inherited: Sequence[int] = (),
    deadline_seconds: float | None = None,
) -> UvFinished:
    """Run a program to its end, or to its deadline.

    Args:
        folder: the working folder; uv reads a `uv.toml` or `pyproject.toml` above it.
        environment: variables set on top of those that such programs inherit.
        inherited: file descriptors that stay open in the program.

    Raises:
        EngineUnavailableError: the program cannot be started.
    """
    kept = {name: value for name, value in os.environ.items() if _ENVIRONMENT_KEPT.match(name)}
    env = {**kept, "PYTHONUNBUFFERED": "1", **environment}
    ends_at = None if deadline_seconds is None else time.monotonic() + deadline_seconds
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=env, cwd=folder, pass_fds=inherited,
        )  # fmt: skip
    except OSError as error:
        raise EngineUnavailableError(
            f"could not {purpose}: {error}.", hint="See that partitiond's Python is complete."
        ) from error
    with process:
        try:
            lines, ended = _read(process, watch, ends_at)
        except BaseException:
            process.kill()
            raise
        if not ended:
            process.kill()
    return UvFinished(process.returncode if ended else None, lines)


def _read(
    process: subprocess.Popen[bytes], watch: UvWatch, ends_at: float | None
) -> tuple[list[str], bool]:
    """Return the lines of a process, and whether the process ended by itself."""
    assert process.stdout is not None
    lines: list[str] = []
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        ticked_at = time.monotonic()
        while True:
            ready = selector.select(TICK_SECONDS)
            if ready:
                chunk = os.read(process.stdout.fileno(), 65536)
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole if chunk else [rest]:
                    lines.append(line.decode(errors="replace").rstrip())
                if not chunk:
                    return lines, True
            now = time.monotonic()
            if ends_at is not None and now >= ends_at:
                return lines, False
            if now - ticked_at >= TICK_SECONDS:
                ticked_at = now
                watch.tick(process.pid)


_CAUSES: Final = (
    (
        re.compile(r"No space left on device"),
        "the disk is full.",
        "Free some space, or set cache_dir to a larger disk; then try again.",
    ),
    (
        re.compile(r"[Cc]ertificate|UnknownIssuer"),
        "a package source has a certificate that this host does not trust.",
        "Name the certificate authority's file in SSL_CERT_FILE; then try again.",
    ),
    (
        re.compile(r"\b(HTTP|status)\D{0,40}\b40[137]\b|\b40[137] (Unauth|Forbid|Proxy)"),
        "a package source refuses access.",
        "Correct user and password in the address of the index, or in ~/.netrc.",
    ),
    (
        re.compile(r"dns error|tcp connect|error sending request|timed out|Failed to fetch"),
        "a package source cannot be reached.",
        "Check the network, uv's index and the proxy. Without a network: put the wheels into a "
        "folder, name it in engine.wheel_folders, and set engine.offline.",
    ),
    (
        re.compile(r"Failed to read `--find-links` directory: "),
        "a folder of wheels cannot be read.",
        "Correct engine.wheel_folders.",
    ),
    (
        re.compile(r"No solution found"),
        "the package sources hold no fitting builds.",
        "Name a source that has them in engine.index_urls or engine.wheel_folders, use another "
        "Python version, or set engine.python to an environment of your own.",
    ),
)  # fmt: skip


def explain(purpose: str, lines: Sequence[str]) -> EngineUnavailableError:
    """Make the error for a program that failed, from the lines that it printed."""
    text = "\n".join(lines)
    tail = [line for line in lines if line.strip()][-8:]
    quoted = "".join(f"\n    {line.strip()}" for line in tail)
    for pattern, message, hint in _CAUSES:
        if pattern.search(text):
            return EngineUnavailableError(
                f"could not {purpose}: {message} It printed:{quoted}\n",
                hint=hint,
                facts={"output": tail},
            )
    return EngineUnavailableError(
        f"could not {purpose}. It printed:{quoted}\n",
        hint="Correct the cause and try again.",
        facts={"output": tail},
    )
