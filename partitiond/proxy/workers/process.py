"""Starts one worker for the parent, sends it messages and connections, and awaits its end."""

import asyncio
import contextlib
import functools
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Final

from partitiond.platform.process_identity import start_ticks
from partitiond.proxy.dispatch.ledger import SlotLedger
from partitiond.proxy.listening.acceptor import Handoff
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


class WorkerProcess:
    """One worker.

    Attributes:
        row: its row of the ledger.
        handoffs: of the listener of clients, and of that of other hosts' proxies, if there is one.
        counts: that it last sent: its metrics, and its traffic.
        ended: the process is gone, and everything that it held was freed.
    """

    def __init__(
        self,
        row: int,
        process: asyncio.subprocess.Process,
        handoffs: Sequence[Handoff],
        channel: Channel,
    ) -> None:
        self.row = row
        self.handoffs = handoffs
        self.counts: Message = {}
        self.ended = asyncio.Event()
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
        *,
        peers: bool = False,
    ) -> "WorkerProcess":
        """Start a worker with the interpreter and the arguments of this process.

        Args:
            row: its row of the ledger.
            workers: number of workers.
            ledger: of all workers.
            peers: whether it is handed connections of other hosts' proxies.
        """
        handoffs = [Handoff(functools.partial(ledger.closed, row, n)) for n in range(1 + peers)]
        channel, its_channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        clients, *others = [handoff.workers_end.fileno() for handoff in handoffs]
        words = [row, workers, clients, its_channel.fileno(), *others]
        with contextlib.ExitStack() as stack:
            stack.enter_context(its_channel)
            for handoff in handoffs:
                stack.enter_context(handoff.workers_end)
            process = await asyncio.create_subprocess_exec(
                sys.executable, *sys.orig_argv[1:], WORKER_OPTION, ",".join(map(str, words)),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(clients, its_channel.fileno(), *others),
            )  # fmt: skip
            ledger.set_owner(row, process.pid, start_ticks(process.pid) or 0)
        return cls(row, process, handoffs, await Channel.over(channel))

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code of the worker; negative for a signal, None while it runs."""
        return self._process.returncode

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
        for handoff in self.handoffs:
            handoff.close()

    async def _listen(self) -> None:
        while (message := await self._channel.receive()) is not None:
            if "farewell" in message:
                self.counts = message["farewell"]
            else:
                self._answers.put_nowait(message)
        self._answers.put_nowait(None)
