"""The control daemon of one GPU."""

import asyncio
import dataclasses
import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from partitiond.core.errors import DeviceError
from partitiond.devices.mps import answers, lifecycle, record
from partitiond.devices.mps.asking import ask
from partitiond.devices.mps.environment import CLIENT_LIMIT, client_env, daemon_env
from partitiond.devices.mps.processes import PROC, MpsProcess, control_of, servers_of
from partitiond.process_identity import ProcessId, boot_id, is_alive, start_ticks

TERMINATE_SECONDS: Final = 20.0
"""Longest wait for one client's work to be ended; the server waits for its kernels."""
CHECK_SECONDS: Final = 2.0
"""Between two questions about a fault: each is one run of the control program per GPU."""


@dataclasses.dataclass(frozen=True, slots=True)
class MpsClient:
    """A CUDA program that runs under the daemon.

    Attributes:
        pid: in this PID namespace; 0 for one in another.
        server_pid: of its server.
    """

    pid: int
    server_pid: int


class MpsDaemon:
    """The control daemon of one GPU: started, asked, ended. Found again by its folder.

    Attributes:
        uuid: the GPU it serves, and the only one its clients see.
        folder: holds its pipes, its logs and its record.
    """

    def __init__(
        self,
        uuid: str,
        folder: Path,
        program: str,
        *,
        place: lifecycle.PlaceFor = lifecycle.no_place,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        """Nothing is started or looked at yet.

        Args:
            place: where it is started, so that it outlives a restart of ours.
            check_seconds: shortest time between two questions about a fault.
        """
        self.uuid = uuid
        self.folder = folder
        self._program = program
        self._place = place
        self._check_seconds = check_seconds
        self._changing = asyncio.Lock()
        self._checked_at = -float("inf")
        self._fault = ""
        self._served: dict[ProcessId, frozenset[ProcessId]] = {}
        self._broken: frozenset[ProcessId] = frozenset()

    @property
    def pipe_dir(self) -> Path:
        """CUDA_MPS_PIPE_DIRECTORY of its clients."""
        return self.folder / "pipe"

    @property
    def log_dir(self) -> Path:
        """Where control.log and server.log are."""
        return self.folder / "log"

    def client_env(self, sm_percent: int, memory_bytes: int) -> tuple[tuple[str, str], ...]:
        """Environment of an engine under it; see `environment.client_env`. Raises DeviceError."""
        return client_env(self.pipe_dir, self.log_dir, sm_percent, memory_bytes)

    def process(self) -> ProcessId | None:
        """Its process; None where it does not run.

        By the record; by its pipe folder where the record was not completed.
        """
        known = record.read(self.folder)
        if known is None:
            return None
        if known.process is not None:
            return known.process if is_alive(known.process) else None
        found = control_of(self.pipe_dir)
        return found.identity if found is not None else None

    def alive(self) -> bool:
        """Whether its process lives."""
        return self.process() is not None

    def servers(self) -> tuple[MpsProcess, ...]:
        """Its servers, those of a daemon that is gone among them."""
        control = self.process()
        return servers_of(self.pipe_dir, control.pid if control else None)

    def pids(self) -> tuple[int, ...]:
        """Its own process and its servers': what is ours on the GPU beside the engines."""
        control = self.process()
        own = () if control is None else (control.pid,)
        return (*own, *(server.pid for server in self.servers()))

    async def ensure(self) -> None:
        """Make it run and answer. One that runs is kept, whoever of us started it.

        What a dead daemon left is ended first: its servers take no new client any more, and
        `fault` has named the engines that were on them.

        Raises:
            DeviceError: it cannot be started, or runs and does not answer.
        """
        async with self._changing:
            running = self.process()
            if running is not None:
                await self.ask("get_server_list")
                self._keep(running)
                return
            place = await self._place(f"mps-{self.folder.name}")
            await lifecycle.end_leftovers(self.pipe_dir)
            record.make(self.folder)
            record.write(self.folder, record.Record(self.uuid, None))
            try:
                started = await lifecycle.start(self._program, self._env(), self.folder, place)
            except DeviceError:
                record.clear(self.folder)
                raise
            self._forget()
            self._keep(started)

    def _keep(self, process: ProcessId) -> None:
        """Complete the record."""
        wanted = record.Record(self.uuid, process)
        if record.read(self.folder) != wanted:
            record.write(self.folder, wanted)

    async def clients(self) -> tuple[MpsClient, ...]:
        """Programs that run under it now; none where it does not run.

        Raises:
            DeviceError: it does not answer, or in words that are not understood.
        """
        if not self.alive():
            return ()
        found: list[MpsClient] = []
        for server in await self._server_list():
            found += [MpsClient(pid, server) for pid in await self._client_list(server)]
        return tuple(found)

    async def room(self) -> int:
        """Client contexts that it still takes, by the limit that holds on every driver."""
        return max(0, CLIENT_LIMIT - len(await self.clients()))

    async def _server_list(self) -> tuple[int, ...]:
        return _understood(await self.ask("get_server_list"), "get_server_list")

    async def _client_list(self, server: int) -> tuple[int, ...]:
        command = f"get_client_list {server}"
        answer = await self.ask(command)
        found = answers.pids(answer)
        if found is None and server not in await self._server_list():
            return ()  # it ended between the two questions
        return _understood(answer, command)

    async def terminate(self, pids: Collection[int]) -> tuple[int, ...]:
        """End the GPU work of those of these processes that are its clients.

        After it they may be killed without harm to their neighbours. Their processes are left
        alone: their next CUDA call fails.

        Returns:
            The clients that were ended.

        Raises:
            DeviceError: one of them could not be ended; the others were.
        """
        ended: list[int] = []
        refused: dict[int, str] = {}
        # A program with several contexts may be listed once for each.
        for client in dict.fromkeys(await self.clients()):
            if client.pid not in pids:
                continue
            command = f"terminate_client {client.server_pid} {client.pid}"
            try:
                answer = await self.ask(command, seconds=TERMINATE_SECONDS)
            except DeviceError as error:
                answer = error.message
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
        """What broke the clients of this GPU, and what it takes to recover; empty when well.

        A fault lasts until every process it broke is gone. Asked at most every `check_seconds`;
        between, the last answer stands.
        """
        now = time.monotonic()
        if now - self._checked_at >= self._check_seconds:
            self._checked_at = now
            self._fault = await self._look_for_fault()
        return self._fault

    async def _look_for_fault(self) -> str:
        known = record.read(self.folder)
        if known is None:
            return ""
        found = await PROC.look(f"MPS servers of {self.uuid}", self.servers)
        servers = {server.identity: server for server in found}
        self._remember_broken(servers)
        if not self.alive():
            return self._fault_without_daemon(known, len(servers))
        for server in servers.values():
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

    def _remember_broken(self, servers: Mapping[ProcessId, MpsProcess]) -> None:
        """Clients whose server is gone can do nothing any more; a fault until they are gone."""
        orphans: set[ProcessId] = set(self._broken)
        for server in tuple(self._served):
            if server not in servers:
                orphans |= self._served.pop(server)
        self._broken = frozenset(orphan for orphan in orphans if is_alive(orphan))

    def _fault_without_daemon(self, known: record.Record, servers: int) -> str:
        """A daemon that is gone is a fault while anything of it is left on this boot."""
        process = known.process
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

    async def _fault_of(self, server: MpsProcess) -> str:
        """Ask for status and clients in one go: each question is a process of its own."""
        try:
            answer = answers.server_answer(
                await self.ask(f"get_server_status {server.pid}", f"get_client_list {server.pid}")
            )
        except DeviceError:  # busy or hanging: only its log can tell, and starting will say so
            answer = answers.ServerAnswer("", (), "")
        else:
            self._served[server.identity] = _identities(answer.clients)
        logged = answers.fatal_line(lifecycle.tail(self.log_dir / "server.log"))
        if answer.status == "FAULT" or (not answer.status and logged):
            said = f" Its log says: {logged}." if logged else ""
            return (
                f"A client's fatal fault on {self.uuid} broke all {len(answer.clients)} clients of "
                f"its MPS server, which takes no new one until they have all ended; then it "
                f"recovers by itself.{said}"
            )
        return ""

    def diagnosis(self) -> str:
        """The line of its logs that says best why something went wrong; empty without logs."""
        logs = (lifecycle.tail(self.log_dir / name) for name in ("server.log", "control.log"))
        return next((line for line in map(answers.ailing_line, logs) if line), "")

    async def quit(self) -> None:
        """End it and its servers, and remove its folder's pipes. Idempotent.

        Raises:
            DeviceError: programs still run under it, or a process cannot be ended.
        """
        async with self._changing:
            running = self.process()
            if running is not None:
                await self._refuse_in_use()
                await lifecycle.quit_daemon(self._program, self._env(), running)
            await lifecycle.end_leftovers(self.pipe_dir)
            record.clear(self.folder)
            self._forget()

    async def _refuse_in_use(self) -> None:
        try:
            clients = await self.clients()
        except DeviceError:  # it does not answer: whoever asks has ended the engines before
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

    async def ask(self, *commands: str, seconds: float | None = None) -> str:
        """Ask it anything its manual names. Raises DeviceError."""
        return await ask(self._program, self._env(), commands, seconds)

    def _env(self) -> dict[str, str]:
        return daemon_env(self.uuid, self.pipe_dir, self.log_dir, os.environ)


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
    """Processes by identity, so that a pid which is handed out again is nobody's client."""
    boot = boot_id()
    living = ((pid, start_ticks(pid)) for pid in pids if pid)
    return frozenset(ProcessId(pid, ticks, boot) for pid, ticks in living if ticks is not None)


def _numbers(processes: Collection[ProcessId]) -> str:
    return ", ".join(str(process.pid) for process in sorted(processes, key=lambda p: p.pid)) or "-"
