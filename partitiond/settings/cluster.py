"""Defines the settings' tables `[host]` and `[cluster]`: this host's name, and the other hosts."""

import platform
import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, Field, model_validator

from partitiond.serde import Table
from partitiond.settings.types import AbsolutePath, Port, Seconds

NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
"""Names of hosts: they stand in ids of devices, in labels and in the cluster's own lists."""
DEFAULT_PORT: Final = 6380
RAY_PORTS: Final = 7
"""Ports that Ray's processes on a host take, from `cluster.port` on."""
WORKER_PORT_OFFSET: Final = 10
"""The first port, from `cluster.port` on, of processes that carry messages."""
WORKER_PORTS: Final = 40
"""Ports for processes that carry messages: a relay or two, and the bridge. Chosen: many more."""


def _name(text: str) -> str:
    if text and not NAME.fullmatch(text):
        raise ValueError("write a name of letters, digits, dots, hyphens and underscores (gpu-1)")
    return text


def _head(text: str) -> str:
    """Return the address of a head as host:port, with the default port if none was written."""
    if not text:
        return text
    host, colon, port = text.rpartition(":")
    if text.startswith("[") and text.endswith("]"):  # an IPv6 address without a port
        host, colon, port = text, ":", str(DEFAULT_PORT)
    if not colon:
        host, port = text, str(DEFAULT_PORT)
    bracketed = host.startswith("[") and host.endswith("]")
    plain = host[1:-1] if bracketed else host
    if (
        not plain
        or any(character.isspace() or character in "/@" for character in plain)
        or (":" in plain and not bracketed)
        or not port.isascii()
        or not port.isdigit()
        or not 0 < int(port) <= 65535
    ):
        raise ValueError("write the head's address and port, as gpu-head:6380 or 10.0.0.4:6380")
    return f"{host}:{int(port)}"


class HostSettings(Table):
    """This host among several."""

    name: Annotated[str, AfterValidator(_name)] = Field(
        "",
        description="Name of this host, of which each host has one of its own; unset takes the "
        "machine's host name. It stays when the address changes.",
    )
    silent_seconds: Seconds = Field(
        20.0,
        description="Time without an answer after which a host is silent, in seconds: nothing is "
        "known of its devices, nothing is started or ended there, and its engines go on.",
    )
    lost_seconds: Seconds = Field(
        300.0,
        description="Time without an answer after which a host is lost, in seconds: the plan is "
        "repaired on the others.",
    )

    @model_validator(mode="after")
    def _silent_before_lost(self) -> "HostSettings":
        if self.lost_seconds <= self.silent_seconds:
            raise ValueError("host.lost_seconds must be longer than host.silent_seconds")
        return self

    @property
    def own_name(self) -> str:
        """The name that is set, or else the machine's."""
        return self.name or platform.node()


class ClusterSettings(Table):
    """The other hosts, of which one (the head) plans for all."""

    enabled: bool = Field(
        default=False,
        description="This host is the head: others join it, and it plans for all "
        "(`partitiond serve --cluster`).",
    )
    head: Annotated[str, AfterValidator(_head)] = Field(
        "",
        description="Address of the head that this host obeys, as gpu-head:6380 "
        "(`partitiond host join`).",
    )
    address: str = Field(
        "",
        description="Address at which the other hosts reach this one; unset finds it.",
    )
    port: Annotated[Port, Field(ge=1)] = Field(
        DEFAULT_PORT, description="TCP port at which the head awaits the other hosts."
    )
    token_path: AbsolutePath | None = Field(
        None,
        description="File of the token that all hosts share, mode 0600; unset takes cluster-token "
        "in state_dir. Whoever reads it can run programs on every host.",
    )
    tls_dir: AbsolutePath | None = Field(
        None,
        description="Folder of the certificates with which hosts know each other; unset takes "
        "cluster-tls in state_dir.",
    )
    python: AbsolutePath | None = Field(
        None,
        description="Python of an environment with Ray, the same minor version on all hosts; unset "
        "takes partitiond's own.",
    )
    manage_ray: bool = Field(
        default=True,
        description="Run Ray's processes of this host, and start them again when they end; false "
        "where partitiond-ray.service does.",
    )
    trust_engines: bool = Field(
        default=False,
        description="Have several hosts even where engines run as the daemon's user (engine."
        "launcher is not set). Each engine can then read the token, and run programs on every "
        "host: for trials, and where all that engines load is trusted.",
    )
    folder: AbsolutePath | None = Field(
        None,
        description="Folder in which hosts on one machine find each other, in place of Ray: for "
        "trials and tests. No token is used.",
    )

    @property
    def joined(self) -> bool:
        """Whether this host obeys the head of another one."""
        return bool(self.head)

    @property
    def ray_ports(self) -> tuple[range, range]:
        """The ports of Ray's processes on a host, and of those that carry messages."""
        workers = self.port + WORKER_PORT_OFFSET
        return range(self.port, self.port + RAY_PORTS), range(workers, workers + WORKER_PORTS)

    def find_token(self, state_dir: Path) -> Path:
        """Return the token's file."""
        return self.token_path or state_dir / "cluster-token"

    def find_tls(self, state_dir: Path) -> Path:
        """Return the folder of the certificates."""
        return self.tls_dir or state_dir / "cluster-tls"
