"""Implements `partitiond devices`: lists and shows devices with their state, and cordons them."""

import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

import typer

from partitiond.cli.devices.tables import device_view, devices_table
from partitiond.cli.ids import DeviceArgument, OneDeviceArgument
from partitiond.cli.options import (
    AllOption,
    JsonOption,
    client_of,
    connected,
    names_another_daemon,
    option,
    settings_of,
    spread,
)
from partitiond.cli.output import emit, say
from partitiond.core.errors import DaemonUnreachableError, InputError, UnauthorizedError
from partitiond.core.hardware.chosen_gpus import chosen_gpus
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.named import device_named
from partitiond.core.views.lists import ReplicaView
from partitiond.devices.host import HostDevices
from partitiond.engines.process.owners import owners

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings

WITHOUT_DAEMON: Final = "No daemon answers: cordons and Xid messages are not known."


def show(
    ctx: typer.Context,
    device_id: OneDeviceArgument = None,
    everything: AllOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the devices of all hosts, or show all of one.

    All of one: health, foreign processes, MIG instances, power, what its driver tells. The daemon
    looks at them every 5 s. Without one they are looked at from here: cordons and Xid messages are
    then not known.
    """
    settings = settings_of(ctx)
    if device_id is not None:
        details = _detailed(settings, device_id)
        emit(details, as_json=as_json, render=lambda: device_view(details))
        return
    found, engines = _listed(settings)
    emit(found, as_json=as_json, render=lambda: devices_table(found, engines, whole=everything))


@spread
def cordon(
    ctx: typer.Context,
    device_id: DeviceArgument,
    reason: str = option("Why, for those who find it cordoned.", default=""),
    lift: bool = option("Let plans use it again; earlier Xid messages then count no longer."),
    as_json: JsonOption = False,
) -> None:
    """Place nothing on a device, until it is lifted.

    It holds over restarts as well. Replicas on it go on serving until a plan that moves them is
    applied.
    """
    if lift:
        if reason:
            raise InputError(
                "--lift keeps no reason.", hint="Leave --reason out: it is for a cordon."
            )
        _lift(ctx, device_id, as_json=as_json)
        return
    if not reason.strip():
        raise InputError(
            "a cordon needs a reason.",
            hint='Write --reason "fan is replaced on Monday": others will find the device so.',
        )
    with client_of(ctx) as client:
        device = client.cordon(device_id, reason)
    emit(device, as_json=as_json, render=lambda: f"{device.short_id} is cordoned.")
    if not as_json:
        say("What runs there moves with the next plan: partitiond plan, then partitiond apply.")


def _lift(ctx: typer.Context, device_id: str, *, as_json: bool) -> None:
    with client_of(ctx) as client:
        device = client.uncordon(device_id)
    words = "may be used again."
    if device.cordoned:
        words = f"has no cordon of an operator any more, and stays cordoned: {device.cordon_reason}"
    emit(device, as_json=as_json, render=lambda: f"{device.short_id} {words}")


def host_provider(settings: "Settings") -> HostDevices:
    """Return the provider of this host's devices, as the settings allow. Raises DeviceError."""
    from partitiond.gpu_host import gpu_cores

    return HostDevices(
        settings.cpu.cores,
        settings.cpu.memory,
        nvml=settings.gpu.enabled,
        cpu=settings.cpu.enabled,
        own_pids=lambda: own_pids(settings),
        mig_changes=settings.gpu.mig_changes,
        mig_helper=settings.gpu.mig_helper,
        simulated_host=settings.gpu.simulated_host,
        gpu_cores=gpu_cores(settings),
        chosen=chosen_gpus(settings.gpu.devices, os.environ),
    )


def host_devices(settings: "Settings") -> list[Device]:
    """Return the devices that the settings allow. Raises DeviceError."""
    return list(host_provider(settings).discover())


def own_pids(settings: "Settings") -> Collection[int]:
    """Return the processes of engines and MPS daemons started by a daemon with these settings."""
    from partitiond.gpu_host import mps_control

    return {*owners(settings.run_dir), *mps_control(settings).pids()}


def _listed(settings: "Settings") -> tuple[list[Device], list[ReplicaView] | None]:
    """Return the devices and the daemon's replicas; None for the replicas without a daemon."""
    try:
        with connected(settings) as client:
            return list(client.devices()), list(client.replicas())
    except (DaemonUnreachableError, UnauthorizedError):
        if names_another_daemon():
            raise
        say(WITHOUT_DAEMON)
        provider = host_provider(settings)
        found = list(provider.discover())
        if provider.unseen:
            say(f"GPUs may be missing here: the driver is {provider.unseen} (see `dmesg`).")
        return found, None


def _detailed(settings: "Settings", device_id: str) -> DeviceDetails:
    try:
        with connected(settings) as client:
            return client.device(device_id)
    except (DaemonUnreachableError, UnauthorizedError):
        if names_another_daemon():
            raise

        say(WITHOUT_DAEMON)
        provider = host_provider(settings)
        return provider.inspect(device_named(list(provider.discover()), device_id).id)
