"""Makes a host one of several: Ray's unit, what it joins with, and how the daemon's unit starts."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from partitiond.cli.setup.host import IMAGE_BIN, ClusterPlace, SetupHost
from partitiond.cli.setup.steps import StepOutcome, StepProgress
from partitiond.cluster.bundle import read_bundle, unpack_bundle
from partitiond.cluster.certificates import HostFiles, is_address
from partitiond.cluster.private_files import make_private
from partitiond.core.errors import DeviceError, InputError, PartitiondError
from partitiond.settings.cluster import ClusterSettings
from partitiond.settings.schema import Settings

RAY_SERVICE: Final = "partitiond-ray.service"
ENVIRONMENT: Final = "/etc/partitiond/cluster.env"
DROP_IN: Final = "40-cluster.conf"
STATE: Final = "/var/lib/partitiond"
TOKEN: Final = f"{STATE}/cluster-token"
TLS: Final = f"{STATE}/cluster-tls"
AUTHORITY: Final = f"{STATE}/cluster-ca"
JOINED: Final = f"{STATE}/joined.json"
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")


def checked_place(head: str | None, address: str | None, bundle: Path | None) -> ClusterPlace:
    """Return a host's place, from what was given.

    Args:
        head: address of the head; None for the head itself.
        bundle: names the host.

    Raises:
        InputError: an address is none, or the bundle cannot be read.
    """
    if address and not (is_address(address) or _HOST_NAME.fullmatch(address)):
        raise InputError(
            f"{address!r} is no address of a host.",
            hint="Write the address at which the other hosts reach this one, as 10.0.0.5.",
        )
    try:
        named = ClusterSettings(head=head or "").head
    except ValidationError as error:
        raise InputError(
            f"{head!r} is no address of a head.", hint="Write host:port, as gpu-head:6380."
        ) from error
    name = read_bundle(bundle).host if bundle else ""
    return ClusterPlace(named, name, address or "", bundle.absolute() if bundle else None)


def environment_text(place: ClusterPlace) -> str:
    """Return the settings of both units, which systemd reads as their environment."""
    settings = {
        "CLUSTER__ENABLED": "" if place.head else "true",
        "CLUSTER__HEAD": place.head,
        # The unit keeps Ray running, not the daemon.
        "CLUSTER__MANAGE_RAY": "false",
        "CLUSTER__ADDRESS": place.address,
        "HOST__NAME": place.name,
        # As in the daemon's 30-engines.conf: without it, Ray's unit would be refused, for engines
        # of the daemon's user could read the token.
        "ENGINE__LAUNCHER": "unix:///run/partitiond-engine.sock",
    }
    lines = [f"PARTITIOND_{key}={value}" for key, value in settings.items() if value]
    return "\n".join(["# This host among several, for both units: partitiond setup.", *lines, ""])


def installed_place(host: SetupHost) -> ClusterPlace | None:
    """Return the place that a host was set up for; None for one host."""
    try:
        lines = host.file(ENVIRONMENT).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = dict(
        line.removeprefix("PARTITIOND_").split("=", 1)
        for line in lines
        if line.startswith("PARTITIOND_") and "=" in line
    )
    return _place(found)


def as_installed(settings: Settings, host: SetupHost) -> Settings:
    """Return the settings with the place that `setup` gave the service, which only its units read.

    They are unchanged for another state folder than the service's, and if they name a cluster.
    """
    cluster, own = settings.cluster, settings.host
    if cluster.enabled or cluster.joined or settings.state_dir != Path(STATE):
        return settings
    place = installed_place(host)
    if place is None:
        return settings
    cluster = cluster.model_copy(
        update={
            "enabled": not place.head,
            "head": place.head,
            "address": place.address,
            "manage_ray": False,
        }
    )
    if place.name:
        own = own.model_copy(update={"name": place.name})
    return settings.model_copy(update={"cluster": cluster, "host": own})


def _place(found: Mapping[str, str]) -> ClusterPlace | None:
    if "CLUSTER__HEAD" not in found and "CLUSTER__ENABLED" not in found:
        return None
    return ClusterPlace(
        found.get("CLUSTER__HEAD", ""),
        found.get("HOST__NAME", ""),
        found.get("CLUSTER__ADDRESS", ""),
    )


def drop_in_text(place: ClusterPlace) -> str:
    """Return what the daemon's unit has on a host among several."""
    text = (
        "# One host of several: partitiond setup --cluster, or --join.\n"
        f"[Unit]\nWants={RAY_SERVICE}\nAfter={RAY_SERVICE}\n"
        f"[Service]\nEnvironmentFile={ENVIRONMENT}\n"
    )
    if place.head:
        text += (
            "# The agent, in place of a control plane.\n"
            f"ExecStart=\nExecStart={IMAGE_BIN}/partitiond host join\n"
        )
    return text


@dataclasses.dataclass(frozen=True, slots=True)
class BundleStep:
    """A bundle's token and certificate in the state folder, for the daemon's user."""

    key: str
    what: str
    bundle: Path

    def read_state(self, host: SetupHost) -> StepOutcome:
        """Return the state: done if the state folder has what the bundle has."""
        state, note = StepProgress.TODO, f"takes them from {self.bundle}"
        try:
            bundle = read_bundle(self.bundle)
        except PartitiondError as error:
            state, note = StepProgress.CANNOT, error.message
        else:
            if _read(host, TOKEN) == f"{bundle.token}\n" and _files(host) == bundle.files:
                state, note = StepProgress.DONE, f"{STATE} has it"
        return StepOutcome(self.key, self.what, state, note)

    def apply(self, host: SetupHost) -> None:
        """Write them, for the state folder's owner. Raises DeviceError."""
        try:
            make_private(host.file(STATE))
            unpack_bundle(self.bundle, token_path=host.file(TOKEN), tls_dir=host.file(TLS))
        except OSError as error:
            raise DeviceError(
                f"{host.file(STATE)} cannot be made: {error.strerror or error}.",
                hint="Run it as root.",
            ) from error


def _files(host: SetupHost) -> HostFiles:
    ca, certificate, key = (_read(host, f"{TLS}/{name}.pem") for name in ("ca", "cert", "key"))
    return HostFiles(ca, certificate, key)


def _read(host: SetupHost, path: str) -> str:
    try:
        return host.file(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
