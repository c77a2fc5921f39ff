"""Starts, queries and ends the control daemon of one GPU."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from partitiond.core.errors import DeviceError
from partitiond.devices.mps import answers, record
from partitiond.devices.mps.direct import DirectMps, MpsAccess
from partitiond.devices.mps.environment import client_env
from partitiond.devices.mps.kept import Keepers, KeptMps
from partitiond.devices.mps.processes import PROC, MpsProcess
from partitiond.platform.process_identity import ProcessId, boot_id, is_alive, start_ticks

TERMINATE_SECONDS: Final = 20.0
"""Longest wait for one client's work to end; the server waits for the client's kernels."""
UNKNOWN_LAUNCHER: Final = "unknown"
"""Stands for the socket at which a daemon was started whose record cannot be read."""
CHECK_SECONDS: Final = 2.0
"""Time between two checks for a fault; each check runs the control program once per GPU."""
ANSWER_SECONDS: Final = 2.0
"""Longest wait for the answer to a check: one daemon that hangs must not hide another's fault."""
SILENT_SECONDS: Final = 25.0
"""A daemon hangs that answered neither of two checks so far apart, nor one between them. Chosen:
ending a client for somebody else keeps it busy for up to `TERMINATE_SECONDS`."""
STALE_SECONDS: Final = 60.0
"""The last check says nothing after so long: a daemon without engines is not checked. Chosen."""


@dataclasses.dataclass(frozen=True, slots=True)
class MpsClient:
    """A CUDA program that runs under the MPS daemon.

    Attributes:
        pid: pid in this PID namespace; 0 for a client in another.
        server_pid: pid of the client's server.
    """

    pid: int
    server_pid: int


class MpsDaemon:
    """Controls the control daemon of one GPU, which is found again by its folder.

    Attributes:
        uuid: the GPU that the daemon serves, and the only one that its clients see.
        folder: holds the daemon's pipes, logs and record.
    """

    def __init__(
        self,
        uuid: str,
        folder: Path,
        program: str,
        *,
        keepers: Keepers | None = None,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        """Keep the arguments; nothing is started or read yet.

        Args:
            keepers: starts daemons as the users of engines; None where all run as our user.
            check_seconds: shortest time between two checks for a fault.
        """
        self.uuid = uuid
        self.folder = folder
        self._program = program
        self._keepers = keepers
        self._direct = DirectMps(uuid, folder, program)
        self._check_seconds = check_seconds
        self._changing = asyncio.Lock()
        self._checked_at = -float("inf")
        self._fault = ""
        self._unanswered: tuple[float, float] | None = None
        """When the first and the last of the checks were asked that had no answer since the last
        one that had."""
        self._terminating = 0
        self._served: dict[ProcessId, frozenset[ProcessId]] = {}
        self._broken: frozenset[ProcessId] = frozenset()

    def _reached_by(self, launcher: str) -> MpsAccess:
        if not launcher or self._keepers is None:
            return self._direct
        return KeptMps(self.uuid, self.folder, self._program, Path(launcher), self._keepers)

    @property
    def _access(self) -> MpsAccess:
        """Whose daemon it is. Without a record this reads /proc: coroutines await `_reached`."""
        known = record.read(self.folder)
        if known is not None:
            return self._reached_by(known.launcher)
        # Without a record who started the daemon is not known: the living process is asked.
        kept = self._reached_by(UNKNOWN_LAUNCHER)
        return kept if kept.process() is not None else self._direct

    async def _reached(self) -> MpsAccess:
        return await PROC.look(f"MPS daemon of {self.uuid}", lambda: self._access)

    @property
    def kept(self) -> bool:
        """Whether the daemon was started as another user than ours."""
        return self._access is not self._direct

    @property
    def pipe_dir(self) -> Path:
        """CUDA_MPS_PIPE_DIRECTORY of the daemon's clients."""
        return self._access.pipe_dir

    @property
    def log_dir(self) -> Path:
        """Folder of control.log and server.log."""
        return self._access.log_dir

    def client_env(self, sm_percent: int, memory_bytes: int) -> tuple[tuple[str, str], ...]:
        """Return the environment of a client; see `environment.client_env`. Raises DeviceError."""
        access = self._access
        return client_env(access.pipe_dir, access.log_dir, sm_percent, memory_bytes)

    def process(self) -> ProcessId | None:
        """Return the process that lives as long as the daemon; None if the daemon does not run."""
        return self._access.process()

    async def running(self) -> ProcessId | None:
        """Look for `process`, outside the event loop. Raises SilentError: /proc does not answer."""
        return await PROC.look(f"MPS daemon of {self.uuid}", self.process)

    def servers(self) -> tuple[MpsProcess, ...] | None:
        """Return the daemon's servers, including servers of an earlier daemon that is gone; None
        while they are not known."""
        return self._access.servers()

    def pids(self) -> tuple[int, ...]:
        """Return the pids of the daemon and its servers: our GPU processes besides the engines."""
        return self._access.pids()

    async def ensure(self, group: str = "", users: Collection[str] = ()) -> None:
        """Make the daemon run and answer, as the user of this isolation group's engines.

        A running daemon is kept if it serves that group. One that an earlier release started as our
        user is kept until no engine uses it, and serves engines that run as our user, too.
        Leftovers of a dead daemon are ended first: its servers take no new clients any more, and
        `fault` has named the engines that were on them.

        Args:
            group: the engine's isolation group.
            users: other engines that use the daemon, even if they are no clients yet.

        Raises:
            DeviceError: the daemon cannot be started, or runs and does not answer; or it serves
                engines of another group.
        """
        async with self._changing:
            wanted = self._wanted(group)
            running = await self.running()
            if running is not None:
                known = record.read(self.folder) or await self._unrecorded(wanted)
                if await self._stays(known, wanted, users):
                    await self.ask("get_server_list")
                    self._keep(running)
                    return
                await self._reached_by(known.launcher).quit(running)
            await self._start(wanted)

    def _wanted(self, group: str) -> record.MpsRecord:
        """Return the record of a daemon that would be started now."""
        launcher = None if self._keepers is None else self._keepers.launcher(group)
        if launcher is None:
            return record.MpsRecord(self.uuid, None)
        return record.MpsRecord(self.uuid, None, str(launcher), group)

    async def _stays(
        self, known: record.MpsRecord, wanted: record.MpsRecord, users: Collection[str]
    ) -> bool:
        """Whether the running daemon is the one that is wanted, or is in use and will do."""
        if (bool(known.launcher), known.isolation_group) == (
            bool(wanted.launcher),
            wanted.isolation_group,
        ):
            return True
        if not users and not await self.clients():
            return False
        if not known.launcher and not wanted.isolation_group:
            return True
        raise DeviceError(
            f"The MPS daemon of {self.uuid} serves engines of {_served(known)} and none of "
            f"{_served(wanted)}: MPS serves one user at a time.",
            hint="Plan them on different GPUs, or end the engines that it serves first.",
            facts={"uuid": self.uuid, "serves": known.isolation_group},
        )

    async def _unrecorded(self, wanted: record.MpsRecord) -> record.MpsRecord:
        """Return a record for a running daemon that has lost its own.

        Raises:
            DeviceError: it runs as another user, and for which group is not known.
        """
        if await self._reached() is self._direct:
            return record.MpsRecord(self.uuid, None)
        raise DeviceError(
            f"The MPS daemon of {self.uuid} runs, and its record in {self.folder} cannot be read: "
            f"it takes no engine of {_served(wanted)}.",
            hint="It ends with the last of its engines, and is then started anew.",
            facts={"uuid": self.uuid, "folder": str(self.folder)},
        )

    async def _start(self, wanted: record.MpsRecord) -> None:
        await (await self._reached()).end_leftovers()
        access = self._reached_by(wanted.launcher)
        await access.prepare()
        record.write(self.folder, wanted)
        try:
            started = await access.start()
        except DeviceError:
            record.clear(self.folder)
            raise
        self._forget()
        self._keep(started)

    def _keep(self, process: ProcessId) -> None:
        """Complete the record with the daemon's process, which is found by its folder as well."""
        known = record.read(self.folder) or record.MpsRecord(self.uuid, None)
        with contextlib.suppress(DeviceError):  # of a full disk
            if known.process != process:
                record.write(self.folder, dataclasses.replace(known, process=process))

    async def clients(self) -> tuple[MpsClient, ...]:
        """Return programs that run under the daemon now; none if it does not run.

        Raises:
            DeviceError: the daemon does not answer, or its answer is not understood.
        """
        if await self.running() is None:
            return ()
        found: list[MpsClient] = []
        for server in await self._server_list():
            found += [MpsClient(pid, server) for pid in await self._client_list(server)]
        return tuple(found)

    async def _server_list(self) -> tuple[int, ...]:
        return _understood(await self.ask("get_server_list"), "get_server_list")

    async def _client_list(self, server: int) -> tuple[int, ...]:
        command = f"get_client_list {server}"
        answer = await self.ask(command)
        found = answers.pids(answer)
        if found is None and server not in await self._server_list():
            return ()  # the server ended between the two commands
        return _understood(answer, command)

    async def terminate(self, pids: Collection[int]) -> tuple[int, ...]:
        """End the GPU work of those of these processes that are the daemon's clients.

        Afterwards the clients may be killed without harm to their neighbours. Their processes are
        left running: their next CUDA call fails.

        Returns:
            The clients that were ended.

        Raises:
            DeviceError: at least one client could not be ended; the others were.
        """
        ended: list[int] = []
        refused: dict[int, str] = {}
        # A program with several contexts may be listed once per context.
        for client in dict.fromkeys(await self.clients()):
            if client.pid not in pids:
                continue
            command = f"terminate_client {client.server_pid} {client.pid}"
            self._terminating += 1
            try:
                answer = await self.ask(command, seconds=TERMINATE_SECONDS)
            except DeviceError as error:
                answer = error.message
            finally:
                self._terminating -= 1
            if answers.terminated(answer):
                ended.append(client.pid)
            else:
                refused[client.pid] = answer
        if refused:
            words = "; ".join(f"{pid}: {answer}" for pid, answer in refused.items())
            raise DeviceError(
                f"MPS clients on {self.uuid} could not be ended by their daemon ({words}).",
                hint="Killing them may break the other engines of this GPU, which then restart.",
                facts={"uuid": self.uuid, "refused": refused, "ended": ended},
            )
        return tuple(ended)

    async def fault(self) -> str:
        """Return what broke the clients of this GPU, and how to recover; empty without a fault.

        A fault lasts until every process that it broke is gone. The daemon is queried at most every
        `check_seconds`; in between, the last answer is returned.
        """
        now = time.monotonic()
        if now - self._checked_at >= self._check_seconds:
            self._checked_at = now
            self._fault = await self._look_for_fault()
        return self._fault

    @property
    def silence(self) -> str:
        """Why the running daemon is taken for hung: no client of it can start or be ended; empty if
        it is not, or is not checked any more.
        """
        if self._unanswered is None or time.monotonic() - self._checked_at > STALE_SECONDS:
            return ""
        first, last = self._unanswered
        if last - first < SILENT_SECONDS:
            return ""
        return f"its MPS control daemon has not answered for {SILENT_SECONDS:g} s"

    async def _look_for_fault(self) -> str:
        found = await PROC.look(f"MPS servers of {self.uuid}", self.servers)
        if found is not None:
            servers = frozenset(server.identity for server in found)
        else:  # the daemon names them still
            said = await self._checked("get_server_list")
            named = None if said is None else answers.pids(said)
            if named is None:
                return self._fault  # servers that are not known have not ended
            servers = _identities(named)
        self._remember_broken(servers)
        if await self.running() is None:
            self._unanswered = None
            return self._fault_without_daemon(record.read(self.folder), len(servers))
        if not servers:
            await self._checked("get_server_list")
        for server in servers:
            reason = await self._fault_of(server)
            if reason:
                return reason
        if self._broken:
            return (
                f"The MPS server of {self.uuid} ended under its clients "
                f"({_numbers(self._broken)}): none of them can use the GPU any more. It starts "
                "anew with the first client once they have all ended."
            )
        return ""

    def _remember_broken(self, servers: Collection[ProcessId]) -> None:
        """Record clients whose server is gone: they can do nothing more, a fault until they end."""
        orphans: set[ProcessId] = set(self._broken)
        for server in tuple(self._served):
            if server not in servers:
                orphans |= self._served.pop(server)
        self._broken = frozenset(orphan for orphan in orphans if is_alive(orphan))

    def _fault_without_daemon(self, known: record.MpsRecord | None, servers: int) -> str:
        """Return a dead daemon's fault; it lasts while servers or clients of this boot live."""
        process = None if known is None else known.process
        if process is not None and process.boot_id != boot_id():
            return ""
        clients = frozenset().union(*self._served.values()) | self._broken
        left = frozenset(client for client in clients if is_alive(client))
        if not servers and not left:
            return ""
        return (
            f"The MPS control daemon of {self.uuid} ended; its clients ({_numbers(left)}) are on "
            "their own and no engine can start. It is started anew once they have all ended."
        )

    async def _fault_of(self, server: ProcessId) -> str:
        """Query status and clients together, since each query starts a process."""
        said = await self._checked(
            f"get_server_status {server.pid}", f"get_client_list {server.pid}"
        )
        if said is None:  # busy or hanging: only the log tells
            answer = answers.ServerAnswer("", (), "")
        else:
            answer = answers.server_answer(said)
            self._served[server] = _identities(answer.clients)
        logged = answers.fatal_line(await (await self._reached()).log("server.log"))
        if answer.status == "FAULT" or (not answer.status and logged):
            said = f" Its log says: {logged}." if logged else ""
            return (
                f"A client's fatal fault on {self.uuid} broke all {len(answer.clients)} clients of "
                f"its MPS server, which takes no new one until they have all ended; then it "
                f"recovers by itself.{said}"
            )
        return ""

    async def _checked(self, *commands: str) -> str | None:
        """Return the answer to commands; None if there is none soon, which is remembered.

        While the daemon ends a client for us, it answers nobody: that tells nothing of it.
        """
        asked_at, is_busy = time.monotonic(), self._terminating > 0
        try:
            answer = await self.ask(*commands, seconds=ANSWER_SECONDS)
        except DeviceError:
            if not is_busy and not self._terminating:
                first = asked_at if self._unanswered is None else self._unanswered[0]
                self._unanswered = first, asked_at
            return None
        self._unanswered = None
        return answer

    async def quit(self) -> None:
        """End the daemon and its servers, and remove its folder's pipes. Idempotent.

        Raises:
            DeviceError: programs still run under the daemon, or a process cannot be ended.
        """
        async with self._changing:
            running = await self.running()
            if running is not None:
                await self._refuse_in_use()
                await (await self._reached()).quit(running)
            await (await self._reached()).end_leftovers()
            record.clear(self.folder)
            self._forget()

    async def _refuse_in_use(self) -> None:
        try:
            clients = await self.clients()
        except DeviceError:  # no answer: the caller has ended the engines before
            return
        living = [client.pid for client in clients if start_ticks(client.pid) is not None]
        if living:
            raise DeviceError(
                f"The MPS daemon of {self.uuid} is in use by {living}.",
                hint="Stop the engines of this GPU first.",
                facts={"uuid": self.uuid, "clients": living},
            )

    def _forget(self) -> None:
        self._served, self._broken = {}, frozenset()
        self._fault, self._checked_at = "", -float("inf")
        self._unanswered = None

    async def ask(self, *commands: str, seconds: float | None = None) -> str:
        """Send the daemon any commands of its manual; return its answer. Raises DeviceError."""
        return await (await self._reached()).ask(commands, seconds)


def _served(known: record.MpsRecord) -> str:
    if not known.launcher:
        return "this daemon's user"
    group = known.isolation_group
    return f"the isolation group {group}" if group else "the default isolation group"


def _understood(answer: str, command: str) -> tuple[int, ...]:
    found = answers.pids(answer)
    if found is None:
        raise DeviceError(
            f"The MPS control daemon answered {command!r} with {answer!r}.",
            hint="Check that gpu.mps_control is NVIDIA's program and speaks protocol version 2.",
            facts={"command": command, "said": answer},
        )
    return found


def _identities(pids: Sequence[int]) -> frozenset[ProcessId]:
    """Return the living ones by identity, so that a reused pid is not taken for one of them."""
    boot = boot_id()
    living = ((pid, start_ticks(pid)) for pid in pids if pid)
    return frozenset(ProcessId(pid, ticks, boot) for pid, ticks in living if ticks is not None)


def _numbers(processes: Collection[ProcessId]) -> str:
    return ", ".join(str(process.pid) for process in sorted(processes, key=lambda p: p.pid)) or "-"
