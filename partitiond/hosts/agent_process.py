"""Runs the agent of a host that joined another one: it does what the head decides.

The agent decides nothing and keeps nothing that matters: after its end, however it ends, engines
and proxy of the host go on, and the next agent finds them when the head asks. `leave` ends them.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from partitiond.core.errors import ConflictError, PartitiondError, StoreError
from partitiond.gpu_host import gpu_host
from partitiond.hosts.calls.far import HostServer
from partitiond.hosts.line import serve_line
from partitiond.hosts.one_master import (
    OBEYED,
    ensure_host_id,
    is_joined,
    joined_head,
    note_joined,
    note_left,
    refuse_master,
)
from partitiond.hosts.this_host import this_host
from partitiond.platform.background import Background
from partitiond.platform.service_process import make_folder, received_signals, set_up_logging
from partitiond.platform.systemd import keep_informed, stopping
from partitiond.ports.cluster import HostPlace
from partitiond.run_folder import owned_run_folder
from partitiond.settings.schema import Settings
from partitiond.settings.service import service_options
from partitiond.store.lock import StateLock, lock_holder

log = logging.getLogger(__name__)

END_SECONDS: Final = 60.0
"""Longest time for an agent to end once it was asked to: profile jobs end their engines first."""
POLL_SECONDS: Final = 0.1


def run_agent(
    settings: Settings,
    prepare: Callable[[Settings], HostPlace],
    ready_callback: Callable[[], None] | None = None,
) -> None:
    """Run this host's agent until SIGTERM or SIGINT; engines and proxy go on.

    Args:
        settings: everything that can be set.
        prepare: checks and starts what carries messages to this host.
        ready_callback: called once the agent answers its head.

    Raises:
        StateFolderBusyError: another daemon or agent runs on this state folder.
        RunFolderBusyError: the run folder belongs to another state folder.
        ConflictError: this host has a control plane of its own.
        PartitiondError: the agent could not start for another reason.
    """
    set_up_logging()
    os.umask(0o077)
    make_folder(settings.state_dir, "state_dir")
    make_folder(settings.run_dir, "run_dir")
    if settings.cluster.folder is not None:
        make_folder(settings.cluster.folder, "cluster.folder")
    with contextlib.ExitStack() as held:
        held.enter_context(StateLock.acquire(settings.lock_path))
        held.enter_context(owned_run_folder(settings))
        refuse_master(settings)
        place = prepare(settings)
        host_id = ensure_host_id(settings.host_id_path)
        note_joined(settings)
        asyncio.run(_run(settings, host_id, place, ready_callback))


async def _run(
    settings: Settings, host_id: str, place: HostPlace, on_ready: Callable[[], None] | None
) -> None:
    host = gpu_host(settings)
    async with contextlib.AsyncExitStack() as ending:
        ending.push_async_callback(asyncio.to_thread, host.devices.close)
        agent = this_host(settings, host, host_id=host_id, place=place)
        ending.push_async_callback(agent.processes.close)
        signals = await ending.enter_async_context(received_signals())
        messages = HostServer(agent, settings.state_dir / OBEYED)
        ending.push_async_callback(messages.close)

        async def answer(_host: str, _seconds: float, body: bytes) -> bytes:
            return await messages.answer(body)

        server = await serve_line(settings.agent_socket, answer)
        ending.callback(server.close)
        keeping = Background([place.keep])
        keeping.start()
        ending.push_async_callback(keeping.stop)
        telling = asyncio.create_task(
            keep_informed(
                started=server.is_serving,
                status=lambda: f"agent of {agent.name}, for the head {settings.cluster.head}",
                on_ready=on_ready,
            ),
            name="service manager",
        )
        log.info("%s (%s) answers the head %s", agent.name, host_id, settings.cluster.head)
        while (number := await signals.get()) is signal.SIGHUP:
            log.info("settings are re-read when the agent starts again")
        log.info("%s: ending; engines and endpoint of this host go on", number.name)
        stopping()
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


# -- leaving -----------------------------------------------------------------------------------


def leave(settings: Settings, report: Callable[[str], None] = lambda _: None) -> tuple[str, ...]:
    """End the agent and all that runs here for the head; the host is its own master then.

    Requests in flight are given `engine.drain_deadline_seconds`. Blocks.

    Args:
        report: is told what is done, as it is done.

    Returns:
        The replicas whose engines were ended.

    Raises:
        ConflictError: this host joined no other one.
        PartitiondError: the agent does not end, or is another user's; or an engine does not end,
            and the host still obeys its head.
    """
    os.umask(0o077)
    if not is_joined(settings):
        raise ConflictError(
            "this host joined no other one.",
            hint="`partitiond down` ends a control plane of its own.",
        )
    _check_run_folder(settings)
    if lock_holder(settings.lock_path) is not None:
        report("the agent ends")
        _end_agent(settings)
    with contextlib.ExitStack() as held:
        held.enter_context(StateLock.acquire(settings.lock_path))
        held.enter_context(owned_run_folder(settings))
        ended = asyncio.run(_end_all(settings, report))
        note_left(settings)
    return ended


def _check_run_folder(settings: Settings) -> None:
    """Refuse a run folder that is not the agent's: its engines would not be found there."""
    with contextlib.suppress(StoreError):  # `leave` removes a record that cannot be read
        joined = joined_head(settings)
        if joined is not None and joined.socket not in ("", str(settings.agent_socket)):
            there = Path(joined.socket).parent
            raise ConflictError(
                f"the agent of this host has its run folder at {there}, not {settings.run_dir}.",
                hint=f"Run this with the agent's settings: PARTITIOND_RUN_DIR={there} and, where "
                "its unit sets them, those of [engine].",
                facts={"run_dir": str(there)},
            )


def _end_agent(settings: Settings) -> None:
    deadline = time.monotonic() + END_SECONDS
    asked = 0
    while (holder := lock_holder(settings.lock_path)) is not None:
        try:
            if holder.pid != asked:
                os.kill(holder.pid, signal.SIGTERM)
                asked = holder.pid
        except ProcessLookupError:
            continue
        except PermissionError as error:
            raise PartitiondError(
                f"the agent (process {holder.pid}) is another user's.",
                hint="Stop it with `systemctl disable --now partitiond`, and run this as its user.",
                facts={"pid": holder.pid},
            ) from error
        if time.monotonic() > deadline:
            raise PartitiondError(
                f"the agent (process {holder.pid}) did not end within {END_SECONDS:.0f} s.",
                hint="Stop it with `systemctl disable --now partitiond`, and try again.",
                facts={"pid": holder.pid},
            )
        time.sleep(POLL_SECONDS)


async def _end_all(settings: Settings, report: Callable[[str], None]) -> tuple[str, ...]:
    host = gpu_host(settings)
    agent = this_host(settings, host)
    policy = service_options(settings).policy.reconcile
    try:
        # The first search also restores devices whose engines are gone.
        engines = await agent.engines.find()
        report("requests in flight end")
        try:
            await agent.proxy.stop(policy.drain_deadline_seconds)
        except PartitiondError as error:  # no reason to leave the engines
            log.warning("%s", error)
        if engines:
            report(f"{len(engines)} engines end")
        await asyncio.gather(
            *(agent.engines.stop(engine, policy.stop_grace_seconds) for engine in engines)
        )
        if agent.partitions is not None:
            for sentence in await agent.partitions.clear():
                log.warning("%s", sentence)
    finally:
        await asyncio.to_thread(host.devices.close)
    return tuple(sorted(handle.launch.replica_id for handle in engines))
