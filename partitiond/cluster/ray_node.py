"""Says how Ray is started on one host: its command, its environment and what is refused. Pure
but for the checks of files.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from partitiond.cluster.certificates import CA_FILE, CERTIFICATE_FILE, KEY_FILE
from partitiond.cluster.token import check_token
from partitiond.core.errors import SettingsError
from partitiond.settings.cluster import WORKER_PORT_OFFSET, WORKER_PORTS

HOST_LABEL: Final = "partitiond.host"
IDENTITY_LABEL: Final = "partitiond.id"
SINCE_LABEL: Final = "partitiond.since"
SOCKET_VARIABLE: Final = "PARTITIOND_AGENT_SOCKET"
"""These four are what `bridge` looks for; a test compares them."""
FOLDER_VARIABLE: Final = "PARTITIOND_RAY_FOLDER"
"""Marks Ray's processes as those of one keeper, so that left-over ones are found and no other."""

LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
"""What Ray takes as the value of a label."""
FOLDER_BYTES_MOST: Final = 45
"""Length of the folder's path: Ray adds 61 bytes ("/session_2026-11-25_22-24-01_266142_1234567" and
"/sockets/plasma_store"), and the path of a Unix socket has 107 at most."""
OBJECT_STORE_BYTES: Final = 100_000_000
"""Memory for messages above 100 kB, taken when it is used; Ray's least is 75 MiB."""
LOG_FILE_BYTES: Final = 8 * 1024 * 1024
"""Size of one of Ray's log files. Chosen: days of what an idle node writes."""
LOG_FILES: Final = 2
START_SECONDS: Final = 150
"""Longest time for the head's control service to start. With Ray's own 30 s, a host at six times
its load (measured) started Ray again and again."""
RECONNECT_SECONDS: Final = 15
"""Time for Ray's processes to find the directory again before they end, and the keeper starts Ray
anew. Chosen: below `host.silent_seconds`; with Ray's own 60 s, hosts were silent for 80 s after a
new directory was started (deploy/check)."""

KNOWN_SECONDS: Final = 5
"""Pause between a raylet's questions whether the directory knows it. Chosen: one that comes back at
once is a new one, called in vain until then; with Ray's 60 s, a core of both hosts for a minute."""

ENDS_ENGINES: Final = (
    "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper",
    "RAY_process_group_cleanup_enabled",
)
"""Options with which Ray ends processes that outlive its own; both are off by default."""

_KEPT: Final = re.compile(r"^(PATH|HOME|USER|LOGNAME|LANG|LC_.*|TZ|LD_LIBRARY_PATH|TMPDIR)$")


@dataclasses.dataclass(frozen=True, slots=True)
class RayNode:
    """What one host's Ray is started with.

    Attributes:
        python: an interpreter that has Ray.
        host: the host's name.
        address: of this host, at which the others reach it.
        head: "host:port" of the head's Ray; empty if this host is the head.
        port: the first of this host's ports; see `ports_of`.
        agent_socket: where the host's agent answers.
        folder: for Ray's logs and sockets, and for the keeper's own files.
        token_path: file with the token that all hosts share.
        tls_dir: folder with ca.pem, cert.pem and key.pem.
    """

    python: Path
    host: str
    address: str
    head: str
    port: int
    agent_socket: Path
    folder: Path
    token_path: Path
    tls_dir: Path

    @property
    def cluster_address(self) -> str:
        """Address of Ray's control service, host:port."""
        return self.head or f"{self.address}:{self.port}"


def ports_of(first: int) -> dict[str, int]:
    """Return the ports that Ray's processes on one host listen on, by their option.

    Further processes take `worker_ports`. All of them are to be open between the hosts of the
    fleet and closed to everybody else: Ray listens on all addresses.
    """
    names = (
        "port", "node-manager-port", "object-manager-port", "dashboard-agent-grpc-port",
        "dashboard-agent-listen-port", "runtime-env-agent-port", "metrics-export-port",
    )  # fmt: skip
    return {name: first + place for place, name in enumerate(names)}


def worker_ports(first: int) -> tuple[int, int]:
    """Return the first and the last port of processes that carry messages."""
    return first + WORKER_PORT_OFFSET, first + WORKER_PORT_OFFSET + WORKER_PORTS - 1


def start_command(node: RayNode, identity: str, since: int) -> list[str]:
    """Return the command that runs Ray in the foreground.

    Args:
        identity: of the host, which stays when Ray or the host is started again.
        since: now, in seconds since 1970; tells two nodes of one host apart.
    """
    ports = ports_of(node.port)
    gcs_port = ports.pop("port")
    least, most = worker_ports(node.port)
    labels = f"{HOST_LABEL}={node.host},{IDENTITY_LABEL}={identity},{SINCE_LABEL}={since}"
    place = (
        ["--address", node.head]
        if node.head
        else ["--head", f"--port={gcs_port}", "--include-dashboard=false", "--no-monitor"]
    )
    return [
        str(node.python), "-m", "ray.scripts.scripts", "start", "--block", *place,
        f"--node-ip-address={node.address}",
        *(f"--{name}={port}" for name, port in ports.items()),
        f"--min-worker-port={least}", f"--max-worker-port={most}",
        # Ray schedules nothing: no processor, no GPU, and little memory for messages.
        "--num-cpus=0", "--num-gpus=0", f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--include-log-monitor=false", "--disable-usage-stats", "--log-color=false",
        f"--labels={labels}", f"--temp-dir={node.folder}",
    ]  # fmt: skip


def node_environment(node: RayNode, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of Ray's processes on a host, from that of their keeper."""
    return {
        **client_environment(node.token_path, node.tls_dir, environ),
        SOCKET_VARIABLE: str(node.agent_socket),
        FOLDER_VARIABLE: str(node.folder),
        "RAY_memory_monitor_refresh_ms": "0",  # it would end a relay when the host's memory is full
        "RAY_gcs_server_port_wait_time_s": str(START_SECONDS),
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(RECONNECT_SECONDS),
        "RAY_raylet_liveness_self_check_interval_ms": str(1000 * KNOWN_SECONDS),
        "RAY_ROTATION_MAX_BYTES": str(LOG_FILE_BYTES),
        "RAY_ROTATION_BACKUP_COUNT": str(LOG_FILES),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # relays never leave, so it would wait 30 s
        **dict.fromkeys(ENDS_ENGINES, "0"),
    }


def client_environment(
    token_path: Path, tls_dir: Path, environ: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment of a program that joins Ray, from that of its parent."""
    kept = {name: value for name, value in environ.items() if _KEPT.match(name)}
    return {
        **kept,
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(tls_dir / CERTIFICATE_FILE),
        "RAY_TLS_SERVER_KEY": str(tls_dir / KEY_FILE),
        "RAY_TLS_CA_CERT": str(tls_dir / CA_FILE),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
        # By default also the last number of Python's version has to be the same on all hosts.
        "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL": "minor",
        "PYTHONUNBUFFERED": "1",
    }


def check_node(node: RayNode, environ: Mapping[str, str]) -> None:
    """Refuse what Ray would refuse later, or what is not safe. Raises SettingsError."""
    if not LABEL.fullmatch(node.host):
        raise SettingsError(
            f"{node.host!r} cannot be the name of a host in a cluster.",
            hint="Use at most 63 letters, digits, dots, dashes and underscores: [host] name.",
            facts={"host": node.host},
        )
    if len(str(node.folder).encode()) > FOLDER_BYTES_MOST:
        raise SettingsError(
            f"{node.folder} is too long for Ray's sockets.",
            hint=f"Use a folder of at most {FOLDER_BYTES_MOST} bytes: state_dir.",
            facts={"folder": str(node.folder), "bytes_most": FOLDER_BYTES_MOST},
        )
    for name in ENDS_ENGINES:
        if environ.get(name, "0").lower() not in ("", "0", "false"):
            raise SettingsError(
                f"{name} is set, with which Ray ends processes that are not its own.",
                hint="Take it out of the environment.",
                facts={"variable": name},
            )
    check_token(node.token_path)
    for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE):
        if not (node.tls_dir / name).is_file():
            raise SettingsError(
                f"{node.tls_dir / name} is missing, and hosts speak TLS.",
                hint="On the head, `partitiond host certificate --for "
                f"{node.host} --address {node.address}` makes this host's bundle (the head's "
                "own: `--make`); or correct cluster.tls_dir.",
                facts={"path": str(node.tls_dir / name)},
            )
