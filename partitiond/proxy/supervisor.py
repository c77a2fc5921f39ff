"""Starts, adopts, controls and ends the proxy, for the daemon.

The proxy is not bound to one daemon: it runs in its own session, and a daemon that starts adopts
the running proxy. A process is our proxy if its pid, start time and boot match those that it left
in the state folder, and it holds the lock there; if these are lost or cannot be read, the process
that listens at the control socket is. It is kept if its arguments are the same, and replaced once
it answers no more probes.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx

import partitiond
from partitiond import native
from partitiond.core.demand.traffic import TrafficSample
from partitiond.core.dispatch.routing import RoutingTable
from partitiond.core.errors import (
    ConflictError,
    InputError,
    NotKeptError,
    PartitiondError,
    SilentError,
)
from partitiond.core.keys.record import KeyUse
from partitiond.core.replica.sleep import Traffic
from partitiond.platform.fault_points import FaultPoint, reached
from partitiond.platform.process_exit import wait_gone
from partitiond.platform.process_identity import SHORTAGE, boot_id, is_alive, start_ticks
from partitiond.platform.tls_files import NO_TLS
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.control import NOT_KEPT
from partitiond.proxy.process import (
    ProxyIdentity,
    arguments_text,
    listening_pid,
    read_identity,
    running,
    same_arguments,
    take_refusal,
)
from partitiond.proxy.telemetry.traffic import last_sample
from partitiond.serde import from_stored, to_json, to_stored_json

START_SECONDS: Final = 60.0
"""Longest start. It usually takes well below 1 s; on a machine that is cold, or starts engines, it
takes tens of seconds."""
POLL_SECONDS: Final = 0.02
"""Pause between two looks whether another process answers, or is gone."""
CONTROL_SECONDS: Final = 10.0
"""Limit of one call to the proxy, which answers in milliseconds unless it hangs."""
PROBE_SECONDS: Final = 5.0
"""Pause between two probes. Chosen."""
SILENT_SECONDS: Final = 30.0
"""A proxy that answers no probe for so long is ended, however soon each one failed: its clients
would wait for their own limits otherwise. Chosen."""
KILL_SECONDS: Final = 5.0
"""Time beyond the grace, after which a proxy that has not exited is killed."""
REPLACE_GRACE_SECONDS: Final = 30.0
"""Grace for a running proxy whose arguments changed."""
CANNOT_ASK: Final = (
    "This process can open no file or connection, so whether the proxy answers is not known."
)

_KEPT_ENVIRONMENT: Final = (
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "VIRTUAL_ENV", "XDG_CACHE_HOME",
    native.SWITCH, native.FOLDER, native.LEVEL,
)  # fmt: skip
"""The last four determine whether and where compiled modules are found."""


class ProxyProcess:
    """Implements `ports.ProxyControl`.

    Attributes:
        identity: of the process that was last started or adopted, or None.
        problem: why the process does not answer, as last probed; empty if it does.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        state_dir: Path,
        control_socket: Path,
        options: ProxyOptions | None = None,
        python: str = sys.executable,
    ) -> None:
        self._host = host
        self._port = port
        self._state_dir = state_dir
        self._control_socket = control_socket
        self._options = options or ProxyOptions()
        self._python = python
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = asyncio.Lock()
        self.identity: ProxyIdentity | None = None
        self.problem = ""

    @property
    def log_path(self) -> Path:
        """Path of the proxy's rotated log."""
        return self._state_dir / "log" / "proxy.log"

    @property
    def base_url(self) -> str:
        """Address for clients; once the proxy runs, with the real port even if 0 was asked for."""
        port = self._port if self.identity is None else self.identity.port
        host = f"[{self._host}]" if ":" in self._host else self._host
        scheme = "https" if self._options.tls_certificate else "http"
        return f"{scheme}://{host}:{port}"

    async def ensure_running(self) -> bool:
        """Adopt or start the proxy; return True if a new process was started.

        Raises:
            DeviceError: another program uses the port.
            SettingsError: the proxy cannot listen on the address.
            ConflictError: a proxy runs on this state folder, but does not answer.
            PartitiondError: the proxy could not be started (the hint names the log), or one with
                other arguments outlives SIGKILL.
        """
        async with self._lock:
            if await self._adopted():
                return False
            try:
                await self._start()
            except ConflictError:
                # A daemon that was killed while it started a proxy may have left it starting.
                await self._until_it_is_up()
                if await self._adopted():
                    return False
                await self._start()
            return True

    async def _adopted(self) -> bool:
        """Adopt the process that runs, whether it answers or not; end it if its arguments differ.

        Its first probes tell whether it answers: nothing waits for that here.
        """
        found = self._running()
        if found is None:
            return False
        self.identity = found
        if same_arguments(found.arguments, self._arguments()):
            return True
        await self._stop(REPLACE_GRACE_SECONDS)
        return False

    def _running(self) -> ProxyIdentity | None:
        """Return the living process, by what it left on disk or else by who listens; or None."""
        found = running(self._state_dir)
        if found is not None:
            return found
        pid = listening_pid(self._control_socket)
        ticks = None if pid is None else start_ticks(pid)
        if pid is None or ticks is None:
            return None
        # What it was started with is not known, and no reason to end it.
        socket_path, arguments = str(self._control_socket), self._arguments()
        return ProxyIdentity(pid, ticks, boot_id(), self._host, self._port, socket_path, arguments)

    async def _until_it_is_up(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                while self._running() is None:  # noqa: ASYNC110 - another process: no event
                    await asyncio.sleep(POLL_SECONDS)

    async def publish(self, table: RoutingTable) -> None:
        """Send a routing table to the proxy.

        Raises:
            ConflictError: the proxy already has a newer table.
            NotKeptError: the proxy serves by the table, and could not store it.
            PartitiondError: the proxy cannot be reached.
        """
        answer = await self._request("PUT", "/routing", to_stored_json(table))
        if not answer.json()["accepted"]:
            newer = answer.json()["version"]
            raise ConflictError(
                f"The proxy ignored routing table {table.version}: it has table {newer}.",
                hint=f"Publish versions above {newer}; after a store was lost, stop the proxy and "
                f"remove {self._state_dir / 'routing.json'}.",
                facts={"published": table.version, "current": newer},
            )

    async def state(self) -> Mapping[str, Any] | None:
        """Return the answer to GET /state, or None if the proxy cannot be reached."""
        try:
            answer = await self._request("GET", "/state")
        except PartitiondError:
            return None
        state: dict[str, Any] = answer.json()
        return state

    async def in_flight(self, host: str = "") -> Mapping[str, int] | None:  # noqa: ARG002
        """Return the requests in flight by replica id; None if the proxy does not answer."""
        state = await self.state()
        return None if state is None else dict(state["in_flight"])

    async def traffic(self) -> Mapping[str, Traffic] | None:
        """Return queue length and idle time by model; None if the proxy does not answer."""
        state = await self.state()
        if state is None:
            return None
        # A proxy of an older release reports no idle times: then treat no model as idle.
        idle = state.get("idle_seconds", {})
        return {name: Traffic(n, idle.get(name, 0.0)) for name, n in state["queues"].items()}

    async def key_use(self) -> Mapping[str, KeyUse] | None:
        """Return the use of each key, by id; None if the proxy does not report it."""
        state = await self.state()
        if state is None or "keys" not in state:  # a proxy of an older release does not count
            return None
        try:
            return {name: from_stored(KeyUse, use) for name, use in state["keys"].items()}
        except InputError:  # a proxy of a newer release counts differently
            return None

    async def sample(self) -> TrafficSample | None:
        """Return the counts by model, replica and key; None if the proxy does not report them."""
        try:
            answer = await self._request("GET", "/traffic")
            return from_stored(TrafficSample, answer.json())
        except (PartitiondError, ValueError):  # the proxy is gone, or of another version
            return None

    def last_sample(self) -> TrafficSample | None:
        """Return the counts of the proxy that ended last; None if it was killed."""
        return last_sample(self._state_dir)

    async def metrics_text(self) -> str:
        """Return the proxy's Prometheus text. Raises PartitiondError if it cannot be reached."""
        return (await self._request("GET", "/metrics")).text

    async def stop(self, grace_seconds: float) -> None:
        """Let requests in flight finish within the grace, then end the process. Idempotent. Raises
        PartitiondError: it outlives SIGKILL."""
        async with self._lock:
            self.identity = self.identity or self._running()
            await self._stop(grace_seconds)

    async def wait_exit(self) -> int | None:
        """Return once the process is gone, or at once if there is none. Meanwhile the process is
        probed, and killed once it does not answer any more. One that outlives that is waited for as
        long as it lives, and is the `problem` until then: no other could start beside it.

        Returns:
            The exit code (negative for a signal) if the process was our child, else None.
        """
        identity = self.identity
        if identity is None:
            return None
        gone = asyncio.ensure_future(self._gone(identity))
        try:
            now = asyncio.get_running_loop().time
            answered = now()
            while now() - answered < SILENT_SECONDS and not gone.done():
                await asyncio.wait([gone], timeout=PROBE_SECONDS)
                if not gone.done():
                    answers = await self._answers(identity)
                    # Who cannot ask knows of no silence.
                    answered = answered if answers is False else now()
                    self.problem = self._problem(answers)
            if not gone.done():
                _kill(identity)
            return await gone
        finally:
            self.problem = ""
            gone.cancel()

    def _problem(self, answers: bool | None) -> str:
        """Return why a process does not answer (`_answers`); empty if it does."""
        if answers:
            return ""
        if answers is None:
            return CANNOT_ASK
        return (
            f"The proxy does not answer. After {SILENT_SECONDS:g} s it is ended and started again. "
            f"See {self.log_path}."
        )

    async def _gone(self, identity: ProxyIdentity) -> int | None:
        """Return once a process is gone, as `wait_exit`; also for an adopted process."""
        await wait_gone(identity)
        return self._reap()

    async def _start(self) -> None:
        self._reap()
        take_refusal(self._state_dir)  # of a process before
        self.log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(  # noqa: ASYNC220 -- a fork and an exec, not a wait
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                cwd=self._state_dir,
                start_new_session=True,
            )
        reached(FaultPoint.PROXY_SPAWNED)
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._wait_until_it_answers(self._child)
        except TimeoutError:
            self._child.kill()
            self._child.wait()
            raise self._failed_to_start("It did not answer in time.") from None

    async def _wait_until_it_answers(self, child: "subprocess.Popen[bytes]") -> None:
        while True:
            code = child.poll()
            if code is not None:
                why = f"It exited with code {code}."
                raise take_refusal(self._state_dir) or self._failed_to_start(why)
            found = read_identity(self._state_dir)
            if found is not None and found.pid == child.pid and await self._answers(found):
                self.identity = found
                return
            await asyncio.sleep(POLL_SECONDS)

    def _failed_to_start(self, why: str) -> PartitiondError:
        return PartitiondError(
            f"The proxy did not start. {why}", hint=f"See the end of {self.log_path}."
        )

    async def _stop(self, grace_seconds: float) -> None:
        identity = self.identity
        if identity is None or not is_alive(identity):
            self._reap()
            return
        with contextlib.suppress(PartitiondError):  # then it is killed below
            await self._request("POST", "/shutdown", to_json({"grace_seconds": grace_seconds}))
        if not await self._gone_within(identity, grace_seconds + KILL_SECONDS):
            _kill(identity)
            if not await self._gone_within(identity, KILL_SECONDS):
                raise PartitiondError(
                    f"The proxy (process {identity.pid}) is still alive after SIGKILL.",
                    hint="It waits in the kernel: see `dmesg`; it is tried again.",
                    facts={"pid": identity.pid},
                )
        self.identity = None

    async def _gone_within(self, identity: ProxyIdentity, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._gone(identity)
                return True
        return False

    async def _answers(self, identity: ProxyIdentity) -> bool | None:
        """Whether a process answers; None if this process cannot ask."""
        try:
            answer = await self._request("GET", "/state")
        except SilentError:
            return None
        except PartitiondError:
            return False
        return bool(answer.json().get("pid") == identity.pid)

    async def _request(self, method: str, path: str, body: str | None = None) -> httpx.Response:
        """Send one control request. Raises PartitiondError; SilentError: nothing was asked."""
        transport = httpx.AsyncHTTPTransport(uds=str(self._control_socket), verify=NO_TLS)
        try:
            async with httpx.AsyncClient(transport=transport, timeout=CONTROL_SECONDS) as client:
                answer = await client.request(method, f"http://proxy{path}", content=body)
        except httpx.HTTPError as error:
            if _is_shortage(error):
                raise SilentError(CANNOT_ASK) from error
            raise PartitiondError(
                f"The proxy cannot be reached: {str(error) or type(error).__name__}.",
                hint=f"See {self.log_path}; the daemon starts it again.",
            ) from error
        if answer.is_error:
            raise self._refusal(answer)
        return answer

    def _refusal(self, answer: httpx.Response) -> PartitiondError:
        """Return the proxy's own error if it sent one; the answer after a bug is plain text."""
        try:
            told = answer.json()
            kind = NotKeptError if answer.status_code == NOT_KEPT else PartitiondError
            return kind(str(told["message"]), hint=str(told["hint"]))
        except (ValueError, LookupError, TypeError):
            return PartitiondError(
                f"The proxy answered with status {answer.status_code}: {answer.text[:200]}",
                hint=f"See {self.log_path}.",
            )

    def _command(self) -> list[str]:
        return [
            self._python, "-m", "partitiond.proxy",
            "--host", self._host,
            "--port", str(self._port),
            "--state-dir", str(self._state_dir),
            "--control-socket", str(self._control_socket),
            "--log-file", str(self.log_path),
            "--settings-json", to_json(self._options),
        ]  # fmt: skip

    def _arguments(self) -> str:
        return arguments_text(self._host, self._port, self._options)

    def _reap(self) -> int | None:
        """Collect our child if it has ended, so that no zombie is left."""
        if self._child is None:
            return None
        code = self._child.poll()
        if code is not None:
            self._child = None
        return code


def _is_shortage(error: BaseException | None) -> bool:
    """Whether a request failed because this process can open nothing, by what it was caused by."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in SHORTAGE:
            return True
        error = error.__cause__ or error.__context__
    return False


def _kill(identity: ProxyIdentity) -> None:
    """End the process with its workers, which are in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(identity.pid, signal.SIGKILL)


def _environment() -> dict[str, str]:
    """Pass few variables, so that the daemon's secrets stay in the daemon, and our package path."""
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    package = str(Path(partitiond.__file__).parent.parent)
    return {**kept, "PYTHONPATH": package, "PYTHONUNBUFFERED": "1"}
