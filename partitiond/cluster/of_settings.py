"""Makes a cluster as the settings say: its files, Ray on this host, the line to other hosts."""

import contextlib
import dataclasses
import logging
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from partitiond.cluster.certificates import CA_FILE, CERTIFICATE_FILE, KEY_FILE, check_files
from partitiond.cluster.keeper import KEEPER_END_SECONDS, keep_ray, keeper_command
from partitiond.cluster.kept_program import KeptProgram
from partitiond.cluster.own_files import ensure_own_files, own_address
from partitiond.cluster.ray_cluster import RayCluster
from partitiond.cluster.ray_environment import RayEnvironment, find_ray
from partitiond.cluster.ray_node import RayNode, check_node
from partitiond.cluster.socket_cluster import SocketCluster
from partitiond.core.dispatch.routing import UNIX
from partitiond.core.errors import PartitiondError, SettingsError
from partitiond.hosts.membership import MESSAGE_SECONDS
from partitiond.ports.cluster import Cluster, HostPlace
from partitiond.settings.schema import Settings, load_settings

BRIDGE_SOCKET: Final = "cluster.sock"
BRIDGE_LOG: Final = "bridge.log"
PEERS_SOCKET: Final = "peers.sock"
"""In the run folder: where the proxies of hosts on one machine reach this one's."""

log = logging.getLogger(__name__)


def ray_folder(settings: Settings) -> Path:
    """Return the folder of Ray's logs and sockets on this host."""
    return settings.state_dir / "ray"


def ray_of(settings: Settings) -> RayEnvironment:
    """Return this host's Ray. May start a short process. Raises SettingsError."""
    return find_ray(settings.cluster.python, settings.cache_dir / "cluster")


def node_of(settings: Settings, ray: RayEnvironment | None = None) -> RayNode:
    """Return what this host's Ray is started with.

    Args:
        ray: that of this host; it is looked for if it is not given.

    Raises:
        SettingsError: there is no Ray, or no address at which others reach this host.
    """
    return RayNode(
        python=(ray or ray_of(settings)).python,
        host=settings.host.own_name,
        address=own_address(settings),
        head=settings.cluster.head,
        port=settings.cluster.port,
        agent_socket=settings.agent_socket,
        folder=ray_folder(settings),
        token_path=settings.cluster_token_path,
        tls_dir=settings.cluster_tls_dir,
    )


def peers_place(settings: Settings) -> HostPlace:
    """Return where this host's proxy serves those of other hosts.

    Raises:
        SettingsError: there is no address at which others reach this host, or a certificate is
            missing.
    """
    if settings.cluster.folder is not None:
        return HostPlace(peers_address=f"{UNIX}{settings.run_dir / PEERS_SOCKET}")
    address, folder = own_address(settings), settings.cluster_tls_dir
    try:
        check_files(folder, [address])
    except SettingsError as error:
        if not all((folder / name).is_file() for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE)):
            raise
        # An endpoint whose certificate has expired starts, and serves its own clients.
        log.error("other hosts will not know this one's endpoint: %s", error)
    at = f"[{address}]" if ":" in address else address
    return HostPlace(peers_address=f"{at}:{settings.proxy.peers_port}", peers_tls=str(folder))


def prepare_cluster(settings: Settings) -> HostPlace:
    """Make the head's files and check them; return what keeps Ray running here, too. Blocks.

    Raises:
        SettingsError: there is no token, it is not private, a certificate is missing, there is no
            Ray, or what `check_node` refuses.
    """
    if settings.cluster.folder is not None:
        return peers_place(settings)
    if settings.cluster.enabled:
        ensure_own_files(settings, datetime.now(UTC))
    ray = ray_of(settings)
    node = node_of(settings, ray)
    place = dataclasses.replace(peers_place(settings), ray_version=ray.version)
    if not settings.cluster.manage_ray:
        return place
    check_node(node, os.environ)
    node.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keeper = KeptProgram(
        "Ray's keeper", keeper_command(node), os.environ, node.folder / "keeper.log",
        end_seconds=KEEPER_END_SECONDS,
    )  # fmt: skip
    return dataclasses.replace(place, keep=keeper.keep)


def keep(settings: Settings) -> None:
    """Keep Ray's processes of this host running until SIGTERM or SIGINT. Raises SettingsError."""
    if settings.cluster.enabled:
        ensure_own_files(settings, datetime.now(UTC))
    keep_ray(node_of(settings))


def main() -> None:
    """Run as a program, as partitiond-ray.service does: `keep` by the environment's settings."""
    try:
        keep(load_settings(None, os.environ, {}).settings)
    except PartitiondError as error:
        print(f"{error.message} {error.hint}", file=sys.stderr, flush=True)
        sys.exit(1)


@contextlib.asynccontextmanager
async def running_cluster(settings: Settings) -> AsyncIterator[Cluster]:
    """Reach the other hosts as long as the context lasts. Raises SettingsError."""
    if settings.cluster.folder is not None:
        yield SocketCluster(settings.cluster.folder, seconds=MESSAGE_SECONDS)
        return
    socket, log_path = settings.run_dir / BRIDGE_SOCKET, settings.state_dir / BRIDGE_LOG
    cluster = RayCluster(node_of(settings), socket, log_path, seconds=MESSAGE_SECONDS)
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.close()


if __name__ == "__main__":
    main()
