"""Runs the daemon: wires the adapters to the service, and decides nothing.

Order of the start: lock on the state folder, tokens on disk, control listener (a used port is
found before anything runs, and a client that can connect can read the token), store, proxy
(adopted or started), engines (adopted), loop, API. On SIGTERM or SIGINT everything drains and
stops, unless `daemon.keep_engines_on_exit` is set; after a second signal the daemon does not wait
for requests in flight. After SIGKILL the engines and the proxy go on serving, and the next daemon
adopts both.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn

from partitiond.api.app import create_app
from partitiond.api.auth import ensure_token
from partitiond.api.connections import ApiConnection
from partitiond.api.replies import ANSWERS
from partitiond.controller.plans.planning import Solve
from partitiond.controller.service import Adapters, Daemon, Service, service_of
from partitiond.core.errors import PartitiondError
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import Infeasible, Plan
from partitiond.engines.vllm.launch import check_extra_args
from partitiond.fleet.registration import RegistrationRules
from partitiond.gpu_host import gpu_host
from partitiond.hosts.calls.fencing import HeadSession
from partitiond.hosts.fleet import hosts_of_fleet
from partitiond.hosts.head import start_head
from partitiond.hosts.membership import Membership
from partitiond.hosts.one_master import ensure_host_id, refuse_joined
from partitiond.hosts.this_host import NO_PLACE, ThisHost, this_host
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.progress.watch import OnProgress
from partitiond.planner.worker import solve_in_process
from partitiond.platform.clock import SystemClock
from partitiond.platform.service_process import (
    listening_error,
    make_folder,
    received_signals,
    set_up_logging,
)
from partitiond.platform.systemd import keep_informed, stopping
from partitiond.ports.cluster import HostPlace
from partitiond.run_folder import owned_run_folder
from partitiond.serde import prepare
from partitiond.settings.schema import Settings
from partitiond.settings.service import (
    Reloading,
    service_options,
    status_text,
)
from partitiond.store import Store, open_store
from partitiond.store.lock import StateLock
from partitiond.store.opening import BUSY_TIMEOUT_SECONDS

log = logging.getLogger(__name__)

PLANNER_GRACE_SECONDS: Final = 120.0
"""Time beyond three times the solver's own limit, to start its process on a busy machine."""
API_GRACE_SECONDS: Final = 5
BACKLOG: Final = 128
STORE_PATIENCE_SECONDS: Final = 0.02
"""Time that a call of the store, and so the event loop, waits for another process's lock. Our own
transactions elsewhere take microseconds; requests that write wait beforehand, in a thread."""


def run_daemon(
    settings: Settings,
    ready_callback: Callable[[], None] | None = None,
    reread: Callable[[], Settings] | None = None,
) -> None:
    """Run the daemon until a signal or the API ends it.

    Args:
        settings: everything that can be set.
        ready_callback: called once the API answers.
        reread: reads the settings again, for SIGHUP; without it SIGHUP changes nothing.

    Raises:
        StateFolderBusyError: another daemon runs on this state folder.
        RunFolderBusyError: the run folder belongs to another state folder.
        FencedError: a later control plane of this state folder has processes in the run folder.
        ConflictError: this host joined another one.
        DeviceError: a port is in use.
        StoreError: the store is damaged, locked or of a newer version.
        PartitiondError: the daemon could not start for another reason, and nothing of it runs; or
            the control API broke, and engines and endpoint go on serving.
    """
    set_up_logging()
    os.umask(0o077)
    make_folder(settings.state_dir, "state_dir")
    make_folder(settings.run_dir, "run_dir")
    with contextlib.ExitStack() as held:
        held.enter_context(StateLock.acquire(settings.lock_path))
        run_folder = held.enter_context(owned_run_folder(settings))
        refuse_joined(settings)
        place = NO_PLACE
        if settings.cluster.enabled:
            from partitiond.cluster.of_settings import prepare_cluster  # one host needs none of it

            place = prepare_cluster(settings)
        tokens = ensure_token(settings.token_path), ensure_token(settings.metrics_token_path)
        listener = held.enter_context(_listener(settings))
        store = held.enter_context(contextlib.closing(_open_store(settings)))
        at, is_head = SystemClock().utc_iso(), settings.cluster.enabled
        head = start_head(run_folder.claim, store, at, is_head=is_head)
        given = Reloading(settings, reread or (lambda: settings))
        asyncio.run(
            _run(
                given,
                store,
                listener,
                tokens=tokens,
                place=place,
                head=head,
                on_ready=ready_callback,
            )
        )


def _open_store(settings: Settings) -> Store:
    """Open the store once no other process holds its lock. The event loop makes its calls."""
    store = open_store(settings.store_path, patience_seconds=STORE_PATIENCE_SECONDS)
    store.wait_until_writable(BUSY_TIMEOUT_SECONDS)
    return store


@contextlib.contextmanager
def _listener(settings: Settings) -> Iterator[socket.socket]:
    """The control API's socket. Raises DeviceError: the port is taken; else SettingsError."""
    host, port = settings.control.host, settings.control.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host.strip("[]"), port))
            listener.listen(BACKLOG)
        except OSError as error:
            raise listening_error(host, port, "[control] port", error) from error
        yield listener
    finally:
        listener.close()


def settle_heap() -> None:
    """Spare the event loop garbage collections of objects that were read at the start and stay.

    With some thousands of profiles, one full collection delays some callback by more than a tenth
    of a second. Objects outside reference cycles are freed as before.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def make_service(
    settings: Settings, store: Store, here: ThisHost, fleet: Membership | None = None
) -> Service:
    """Make the service over this host's adapters, or over those of all hosts of a fleet."""
    everywhere = here if fleet is None else fleet.hosts
    adapters = Adapters(
        store=store,
        runner=everywhere.engines,
        devices=everywhere.devices,
        resolver=everywhere.models,
        proxy=everywhere.proxy,
        profiler=everywhere.profiler,
        solve=_solver(settings.planner.memory_limit),
        clock=SystemClock(),
        accept=_accept,
        group_warning=here.group_warning,
        engine_problem=everywhere.engine_problem,
        engine_version=(lambda _: here.finder.version())
        if fleet is None
        else fleet.hosts.engine_version,
        host_memory=dict if fleet is None else fleet.hosts.host_memory,
        partitions=everywhere.partitions,
        gauges=everywhere.gauges,
        hosts=fleet,
    )
    return service_of(adapters, service_options(settings))


def _accept(spec: ModelSpec) -> None:
    check_extra_args(spec.engine.extra_args, spec.engine_kind)


def _solver(memory_limit_bytes: int) -> Solve:
    async def solve(
        request: PlanRequest, on_progress: OnProgress | None = None
    ) -> Plan | Infeasible:
        # A deterministic solve counts work, and may take three times its limit in real time.
        timeout = 3 * request.time_limit_seconds + PLANNER_GRACE_SECONDS
        return await solve_in_process(
            request, timeout, on_progress=on_progress, memory_limit_bytes=memory_limit_bytes
        )

    return solve


class _CutOff(logging.Filter):
    """Logs a request cut off by the daemon's end in one line, where uvicorn logs a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the record, but drop the traceback of a cancellation."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, asyncio.CancelledError):
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.msg, record.args = "a request was not answered: the daemon ends.", ()
            record.exc_info = record.exc_text = None
        return True


_CUT_OFF: Final = _CutOff()


class _ApiServer(uvicorn.Server):
    """uvicorn without its own signal handlers: the daemon decides when the server ends."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        logging.getLogger("uvicorn.error").addFilter(_CUT_OFF)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


async def _run(
    given: Reloading,
    store: Store,
    listener: socket.socket,
    *,
    tokens: tuple[str, str],
    place: HostPlace,
    head: HeadSession,
    on_ready: Callable[[], None] | None,
) -> None:
    settings = given.used
    host = gpu_host(settings)
    async with contextlib.AsyncExitStack() as ending:
        ending.push_async_callback(asyncio.to_thread, host.devices.close)
        # A host alone has no id: nothing tells it from others.
        host_id = ensure_host_id(settings.host_id_path) if settings.cluster.enabled else ""
        here = this_host(settings, host, host_id=host_id, place=place, head=True)
        ending.push_async_callback(here.processes.close)
        fleet = None
        if settings.cluster.enabled:
            from partitiond.cluster.of_settings import running_cluster

            cluster = await ending.enter_async_context(running_cluster(settings))
            fleet = await ending.enter_async_context(
                hosts_of_fleet(settings, store, here, cluster, head)
            )
        service = make_service(settings, store, here, fleet)
        signals = await ending.enter_async_context(received_signals())
        try:
            await service.daemon.start()
        except PartitiondError:
            await service.daemon.shutdown(stop_engines=False)
            raise
        admin, metrics = tokens
        api = RegistrationRules(
            hub=settings.models.hub, allow_folders=settings.models.allow_folders
        )
        # In a thread, because the event loop already supervises engines.
        app = await asyncio.to_thread(
            create_app,
            service,
            admin_token=admin,
            metrics_token=metrics,
            options=api,
            endpoint=(settings.proxy_url, settings.state_dir / "proxy" / "log" / "proxy.log"),
        )
        config = uvicorn.Config(
            app,
            http=ApiConnection,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=API_GRACE_SECONDS,
        )
        server = _ApiServer(config)
        settle_heap()
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="control API")
        telling = asyncio.create_task(
            keep_informed(
                started=lambda: server.started,
                status=lambda: status_text(service.overview.replicas()),
                alive=lambda: service.daemon.turning,
                on_ready=on_ready,
            ),
            name="service manager",
        )
        preparing = asyncio.create_task(asyncio.to_thread(prepare, ANSWERS), name="prepare answers")
        try:
            await _until_the_end(
                service.daemon,
                signals,
                serving,
                stop_engines=not settings.daemon.keep_engines_on_exit,
                reload=given,
            )
        finally:
            stopping()
            telling.cancel()
            server.should_exit = True
            await asyncio.gather(telling, preparing, serving, return_exceptions=True)


async def _until_the_end(
    daemon: Daemon,
    signals: "asyncio.Queue[signal.Signals]",
    serving: "asyncio.Task[None]",
    *,
    stop_engines: bool,
    reload: Callable[[Daemon], bool] | None = None,
) -> None:
    """Wait until a signal or the API's `shutdown` has ended the control plane.

    Raises:
        PartitiondError: the API ended by itself. Engines and endpoint are left running: they
            serve, and the next daemon adopts them.
    """
    closed = asyncio.create_task(daemon.closed.wait())
    while not closed.done() and not serving.done():
        told = asyncio.create_task(signals.get())
        await asyncio.wait({closed, told, serving}, return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            told.cancel()
        elif told.result() is signal.SIGHUP:
            stop_engines = stop_engines if reload is None else reload(daemon)
        elif daemon.ending:
            log.info("%s again: does not wait for requests in flight", told.result().name)
            daemon.hurry()
        else:
            log.info("%s: ending", told.result().name)
            daemon.end(stop_engines=stop_engines)
    if daemon.ending or not serving.done():
        await daemon.shutdown(stop_engines=stop_engines)
        return
    error = None if serving.cancelled() else serving.exception()
    await daemon.shutdown(stop_engines=False)
    closed.cancel()
    why = f"{type(error).__name__}: {error}" if error is not None else "it stopped by itself"
    raise PartitiondError(
        f"the control API broke: {why}.",
        hint="Engines and endpoint go on serving; start the daemon again, it adopts them.",
    ) from error
