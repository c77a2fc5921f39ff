"""Starts one worker for the parent, sends it messages and connections, and awaits its end."""

import asyncio
import contextlib
import signal
import socket
import sys
from typing import Final

from partitiond.platform.process_identity import start_ticks
from partitiond.proxy.dispatch.ledger import SlotLedger
from partitiond.proxy.dispatch.shared import Wakeups
from partitiond.proxy.workers.channel import Channel, Message

START_SECONDS: Final = 60.0
"""Limit for the first answer: start and imports take seconds on a busy machine."""
ANSWER_SECONDS: Final = 8.0
"""A worker that does not answer for this long hangs, and is replaced; the daemon waits for 10 s.
It also limits each later step of a start."""
WORKER_OPTION: Final = "--worker"


class WorkerError(Exception):
    """A worker does not answer, or could not do what a message asks."""


class WorkerGoneError(WorkerError):
    """A worker has ended, or is just ending."""


class PeersHandoff:
    """Where one worker takes the connections of other hosts' proxies. Implements `acceptor.Taker`.

    Attributes:
        handed: number of connections that the worker was handed there.
    """

    def __init__(self, row: int, ledger: SlotLedger, handoff: socket.socket) -> None:
        self.handoff = handoff
        self.handed = 0
        self._row = row
        self._ledger = ledger

    def open_connections(self) -> int:
        """Number of connections that were handed to the worker and are not closed."""
        return self.handed - self._ledger.peers_closed(self._row)


class WorkerProcess:
    """One worker. Implements `acceptor.Taker`.

    Attributes:
        peers_handoff: for the connections of other hosts' proxies; None if there are none.
        row: its row of the ledger.
        handed: number of connections that it was handed.
        leaving: it gets no more connections, and ends by itself.
        last_metrics, last_traffic: the counts that it last sent.
        ended: the process is gone, and everything that it held was freed.
    """

    def __init__(
        self,
        row: int,
        ledger: SlotLedger,
        process: asyncio.subprocess.Process,
        handoff: socket.socket,
        channel: Channel,
    ) -> None:
        self.row = row
        self.handoff = handoff
        self.peers_handoff: PeersHandoff | None = None
        self.handed = 0
        self.leaving = False
        self.last_metrics = ""
        self.last_traffic: Message | None = None
        self.ended = asyncio.Event()
        self._ledger = ledger
        self._process = process
        self._channel = channel
        self._asking = asyncio.Lock()
        self._answers: asyncio.Queue[Message | None] = asyncio.Queue()
        self._listening = asyncio.get_running_loop().create_task(self._listen())

    @classmethod
    async def start(
        cls,
        row: int,
        workers: int,
        ledger: SlotLedger,
        bells: Wakeups,
        *,
        peers: bool = False,
    ) -> "WorkerProcess":
        """Start a worker with the interpreter and the arguments of this process.

        Args:
            row: its row of the ledger.
            workers: number of workers.
            ledger: of all workers.
            bells: of all workers.
            peers: whether it is handed connections of other hosts' proxies.
        """
        handoff, its_handoff = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel, its_channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        handoff.setblocking(False)
        passed = [its_handoff.fileno(), its_channel.fileno()]
        words = [row, workers, *passed]
        for number, bell in bells.descriptors.items():
            words += [number, bell]
            passed.append(bell)
        for_peers = None
        with contextlib.ExitStack() as stack:
            stack.enter_context(its_handoff)
            stack.enter_context(its_channel)
            if peers:
                mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                stack.enter_context(its)
                mine.setblocking(False)
                for_peers = PeersHandoff(row, ledger, mine)
                words.append(its.fileno())
                passed.append(its.fileno())
            process = await asyncio.create_subprocess_exec(
                sys.executable, *sys.orig_argv[1:], WORKER_OPTION, ",".join(map(str, words)),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=passed,
            )  # fmt: skip
            ledger.set_owner(row, process.pid, start_ticks(process.pid) or 0)
        made = cls(row, ledger, process, handoff, await Channel.over(channel))
        made.peers_handoff = for_peers
        return made

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code of the worker; negative for a signal, None while it runs."""
        return self._process.returncode

    def open_connections(self) -> int:
        """Number of connections that were handed to the worker and are not closed."""
        return self.handed - self._ledger.closed(self.row)

    async def ask(self, message: Message, seconds: float = ANSWER_SECONDS) -> Message:
        """Send a message, return the answer.

        Raises:
            WorkerGoneError: it has left.
            WorkerError: no answer comes, or it is an error.
        """
        async with self._asking:
            try:
                async with asyncio.timeout(seconds):
                    await self._channel.send(message)
                    answer = await self._answers.get()
            except TimeoutError:
                raise WorkerError(f"no answer to {message['do']} within {seconds:g} s") from None
            except ConnectionError as error:
                raise WorkerGoneError(f"it takes no {message['do']}: {error}") from error
        if answer is None:
            self._answers.put_nowait(None)  # for the next call
            raise WorkerGoneError(f"it ended before it answered {message['do']}")
        if "error" in answer:
            raise WorkerError(f"{message['do']} failed: {answer['error']}")
        return answer

    def kill(self) -> None:
        """Kill the worker now; harmless if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    async def wait(self) -> None:
        """Return once the process has ended and all of its messages were read."""
        await self._process.wait()
        await self._listening
        self._channel.close()
        self.handoff.close()
        if self.peers_handoff is not None:
            self.peers_handoff.handoff.close()

    async def _listen(self) -> None:
        while (message := await self._channel.receive()) is not None:
            if "farewell" in message:
                self.last_metrics = message["farewell"]
                self.last_traffic = message["traffic"]
            else:
                self._answers.put_nowait(message)
        self._answers.put_nowait(None)
