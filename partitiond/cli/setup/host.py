"""Describes the host that `partitiond setup` works on: files, programs, facts that decide."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import partitiond
from partitiond.core.errors import DeviceError, PartitiondError

USER: Final = "partitiond"
ENGINE_USER: Final = "partitiond-engine"
SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMMAND_SECONDS: Final = 120.0
IMAGE_BIN: Final = Path("/opt/partitiond/bin")
"""The folder in which an image is expected to have partitiond."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ran:
    """The exit code and output of a program."""

    code: int
    output: str


@dataclasses.dataclass(frozen=True, slots=True)
class SetupHost:
    """A host, or the root folder of an image of one.

    Attributes:
        root: the folder of its files; "/" for this host.
        live: whether the host is running, so that services can be started and devices changed.
        path: the search path for its programs.
    """

    root: Path = Path("/")
    live: bool = True
    path: str = SEARCH_PATH

    def file(self, path: str) -> Path:
        """The path on this machine of a file of the host."""
        return self.root / path.lstrip("/")

    def program(self, name: str) -> str | None:
        """The path of a program, or None if there is none."""
        return shutil.which(name, path=self.path)

    def run(self, words: Sequence[str], *, seconds: float | None = COMMAND_SECONDS) -> Ran:
        """Run a program to its end. The code is 127 if it is missing, 124 if it takes too long."""
        program = self.program(words[0])
        if program is None:
            return Ran(127, f"{words[0]} is not installed")
        try:
            done = subprocess.run(
                [program, *words[1:]],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                env={"PATH": self.path, "LC_ALL": "C.UTF-8"},
            )
        except subprocess.TimeoutExpired:
            return Ran(124, f"{words[0]} did not end in {seconds:g} s")
        return Ran(done.returncode, done.stdout.decode(errors="replace").strip())

    def user_id(self, name: str = USER) -> int | None:
        """The id of a user on that host, by default the daemon's; None before it is made."""
        try:
            lines = self.file("/etc/passwd").read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        fields = (line.split(":") for line in lines)
        return next((int(f[2]) for f in fields if f[0] == name and len(f) > 2), None)


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterPlace:
    """A host's place among several.

    Attributes:
        head: address of the head that it obeys, host:port; empty for the head itself.
        name: its name in the fleet; empty takes the machine's.
        address: at which the others reach it; empty finds it.
        bundle: what it joins with; None if it has that already.
    """

    head: str = ""
    name: str = ""
    address: str = ""
    bundle: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class SetupFacts:
    """The facts that decide which steps there are.

    Attributes:
        gpu: whether to prepare for NVIDIA GPUs.
        mig: whether to install the helper that changes MIG.
        engine: whether to install an engine, too.
        engine_user: whether engines run as a user of their own.
        bin_dir: folder of the `partitiond` program that the service runs.
        persistenced: whether the host has NVIDIA's persistence daemon as a service.
        isolation_groups: groups beside the default one whose engines have a user of their own.
        cluster: the host's place among several; None for one host.
    """

    gpu: bool
    mig: bool
    engine: bool
    engine_user: bool
    bin_dir: Path
    persistenced: bool
    isolation_groups: tuple[str, ...] = ()
    cluster: ClusterPlace | None = None


def facts_of(
    host: SetupHost,
    *,
    gpu: bool | None,
    mig: bool | None,
    engine: bool,
    engine_user: bool,
    bin_dir: Path | None,
    isolation_groups: Collection[str] = (),
    cluster: ClusterPlace | None = None,
) -> SetupFacts:
    """Look at the host; facts that were given override facts that are seen."""
    seen = host.live and (
        host.file("/proc/driver/nvidia/version").exists() or host.file("/dev/nvidiactl").exists()
    )
    with_gpu = seen if gpu is None else gpu
    return SetupFacts(
        gpu=with_gpu,
        mig=with_gpu if mig is None else mig,
        engine=engine,
        engine_user=engine_user,
        bin_dir=bin_dir or (Path(sys.prefix) / "bin" if host.live else IMAGE_BIN),
        persistenced=any(
            host.file(f"{folder}/nvidia-persistenced.service").exists()
            for folder in ("/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system")
        ),
        isolation_groups=tuple(sorted(isolation_groups)),
        cluster=cluster,
    )


def systemd_version(host: SetupHost) -> int:
    """The version of systemd; 0 if there is none."""
    said = host.run(["systemctl", "--version"])
    found = re.match(r"systemd (\d+)", said.output)
    return int(found[1]) if said.code == 0 and found else 0


def require_rights(host: SetupHost) -> None:
    """Raise DeviceError if this user may not change the host."""
    if host.live and host.root == Path("/") and os.geteuid() != 0:
        raise DeviceError(
            "only root may set up a host.",
            hint="Run it with sudo, or with --root DIR to prepare an image.",
        )


def shipped(name: str) -> str:
    """The text of a file of `deploy/`.

    Raises:
        PartitiondError: this installation came without the file.
    """
    package = Path(partitiond.__file__).resolve().parent
    for folder in (package / "deploy", package.parent / "deploy"):
        file = folder / name
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise PartitiondError(
        f"this installation has no deploy/{name}.",
        hint="Install partitiond from its wheel or run it from a checkout.",
    )
