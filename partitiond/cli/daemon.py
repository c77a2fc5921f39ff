"""Implements `serve`, `down` and `status`: runs, stops and shows the daemon."""

import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import typer

from partitiond.cli.hosts.listing import hosts_words
from partitiond.cli.hosts.place import settings_of_place
from partitiond.cli.options import (
    AllOption,
    JsonOption,
    client_of,
    names_another_daemon,
    option,
    settings_of,
    spread,
)
from partitiond.cli.output import err, out, print_json, say, tell
from partitiond.cli.plan.words import converging_words, waiting_words
from partitiond.cli.progress import reporting
from partitiond.cli.starting import lock_is_held
from partitiond.cli.tables import HALF_PAGE_ROWS, models_table, replicas_table
from partitiond.core.errors import (
    DaemonUnreachableError,
    InputError,
    NotFoundError,
    PartitiondError,
)
from partitiond.core.hardware.kinds import short_device

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient
    from partitiond.core.hardware.host_state import HostView
    from partitiond.settings.schema import Settings

DOWN_DEADLINE_SECONDS: Final = 180.0
"""Draining may take 120 s by default; stopping engines and proxy takes some more."""
MAX_NAMES: Final = 8
"""The most cordoned devices that `status` names."""


@spread
def serve(
    ctx: typer.Context,
    *,
    cluster: bool = option("Be the head of several hosts; the others join this one."),
) -> None:
    """Run the daemon in the foreground.

    It is the control API, the controller, the engines and the endpoint.
    Ends on Ctrl-C or SIGTERM. A second daemon on the same state folder is refused.
    """
    options = {"cluster.enabled": "true"} if cluster else {}
    settings = settings_of(ctx, options)
    say(f"partitiond: state in {settings.state_dir}")
    from partitiond.daemon import run_daemon  # takes a second: errors in settings come first

    run_daemon(settings, lambda: _say_ready(settings), reread=lambda: settings_of(ctx, options))


def _say_ready(settings: "Settings") -> None:
    say(f"ready: control API on {settings.control_url}, endpoint on {settings.proxy_url}/v1")
    if settings.cluster.enabled:
        say(f"Another host joins by: {_join_command(settings)}")


def _join_command(settings: "Settings") -> str:
    """The commands for another host; it gets token and certificate in its bundle."""
    cluster, own = settings.cluster, settings.host.own_name
    if cluster.folder is not None:
        return f"partitiond --set cluster.folder={cluster.folder} host join {own}"
    command = f"partitiond host join {cluster.address or own}:{cluster.port}"
    if cluster.tls_dir is None:
        return (
            f"here, partitiond host certificate --for NAME --address ADDRESS; there, {command} "
            "--from NAME.bundle"
        )
    token = settings.cluster_token_path
    return f"{command} --token-file FILE (a copy of {token}, mode 0600)"


@spread
def down(
    ctx: typer.Context,
    keep_engines: bool = option("Leave engines and endpoint running."),
    as_json: JsonOption = False,
) -> None:
    """Stop the daemon, or this host's agent, and all that it runs; wait.

    On a host that joined a head, requests in flight end first, for at most
    engine.drain_deadline_seconds. On the head, `partitiond devices cordon` and `partitiond apply`
    beforehand move its replicas elsewhere, and `partitiond hosts --forget` takes it off the list.
    """
    from partitiond.hosts.one_master import is_joined

    settings = settings_of_place(ctx)
    if is_joined(settings) and not names_another_daemon():
        if keep_engines:
            raise InputError(
                "an agent ends alone by a signal, and its engines go on.",
                hint="`systemctl stop partitiond`, or Ctrl-C where `partitiond host join` runs.",
            )
        from partitiond.hosts.agent_process import leave

        ended = leave(settings, report=(lambda _: None) if as_json else say)
        words = f"This host obeys no head any more; {len(ended)} engines were ended."
        tell({"stopped": True, "ended": list(ended)}, words, as_json=as_json)
        return
    with client_of(ctx) as client:
        stopped = stop_daemon(client, settings, stop_engines=not keep_engines)
    if as_json:
        print_json({"stopped": stopped, "engines_kept": keep_engines})
    elif stopped:
        say("The daemon is stopped." + (" Engines go on serving." if keep_engines else ""))
    else:
        say(f"No daemon answers on {settings.control_url}: nothing to stop.")


def stop_daemon(client: "ControlClient", settings: "Settings", *, stop_engines: bool) -> bool:
    """Ask the daemon to end and wait until it has ended; False if none was running.

    Raises:
        PartitiondError: the daemon refused, or did not end in time.
    """
    try:
        client.shutdown(stop_engines=stop_engines)
    except DaemonUnreachableError:
        if not lock_is_held(settings.lock_path):
            return False
        raise
    deadline = time.monotonic() + DOWN_DEADLINE_SECONDS
    with reporting(err()) as report:
        while lock_is_held(settings.lock_path):
            if time.monotonic() > deadline:
                raise PartitiondError(
                    f"the daemon did not end within {DOWN_DEADLINE_SECONDS:.0f} s.",
                    hint="`partitiond status` shows what it waits for.",
                )
            report.update("draining and stopping")
            time.sleep(0.2)
    return True


def _hosts(client: "ControlClient") -> Sequence["HostView"]:
    """Return the hosts of the fleet; none from a daemon of the release before."""
    with contextlib.suppress(NotFoundError):
        return client.hosts()
    return ()


def status(ctx: typer.Context, everything: AllOption = False, as_json: JsonOption = False) -> None:
    """Show models, replicas and the plan that is applied."""
    with client_of(ctx) as client:
        plan, waiting = client.current_plan(), client.waiting_plan()
        shown: dict[str, Any] = {
            "models": client.models(),
            "replicas": client.replicas(),
            "plan_id": plan.id if plan else None,
            "waiting_plan_id": waiting.plan.id if waiting else None,
            "convergence": client.convergence() if plan else None,
            "not_ready": dict(client.readiness()),
        }
        hosts = () if as_json else _hosts(client)
        devices = [] if shown["not_ready"] else client.devices()
    if as_json:
        print_json(shown)
        return

    settings = settings_of(ctx)
    console = out()
    unready = "; ".join(f"{part}: {why}" for part, why in shown["not_ready"].items())
    console.print(f"daemon    {f'not ready ({unready})' if unready else 'ready'}", markup=False)
    console.print(f"endpoint  {settings.proxy_url}/v1", markup=False)
    console.print(f"plan      {shown['plan_id'] or 'none applied'}", markup=False)
    if shown["convergence"] and (words := converging_words(shown["convergence"])):
        console.print(f"          {words}", markup=False)
    if waiting is not None:
        console.print(f"waiting   {waiting_words(waiting)}", markup=False, soft_wrap=True)
    if len(hosts) > 1:
        console.print(f"hosts     {hosts_words(hosts)}", markup=False, soft_wrap=True)
    cordoned = [short_device(device.id) for device in devices if device.cordoned]
    if cordoned:
        names = ", ".join(cordoned if everything else cordoned[:MAX_NAMES])
        more = len(cordoned) - MAX_NAMES
        names += f" and {more} more" if more > 0 and not everything else ""
        console.print(
            f"devices   {len(devices)}, of which cordoned: {names} (see `partitiond devices`)",
            markup=False,
        )
    page = None if everything else HALF_PAGE_ROWS
    console.print(models_table(shown["models"], page))
    console.print(replicas_table(shown["replicas"], page, several=len(hosts) > 1))
