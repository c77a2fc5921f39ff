"""The parent's handle on one worker: start it, ask it, hand it connections, see it end."""

import asyncio
import contextlib
import signal
import socket
import sys
from typing import Final

from partitiond.process_identity import start_ticks
from partitiond.proxy.channel import Channel, Message
from partitiond.proxy.ledger import Ledger
from partitiond.proxy.shared import Bells

START_SECONDS: Final = 60.0
"""For the first answer: the process starts and imports, which takes seconds on a busy machine."""
ANSWER_SECONDS: Final = 8.0
"""A worker that says nothing for so long hangs, and is replaced; the daemon waits for 10 s. It
also is the longest start."""
WORKER_OPTION: Final = "--worker"


class WorkerError(Exception):
    """It does not do what it was asked to."""


class WorkerProcess:
    """Implements `acceptor.Taker`.

    Attributes:
        row: of the ledger.
        handed: connections it was handed.
        serves: it has said that it takes connections.
        leaving: it gets no more, and ends by itself.
        last_metrics, last_traffic: what it last said of its counters.
        ended: it is gone, and what it held was given back.
    """

    def __init__(
        self,
        row: int,
        ledger: Ledger,
        process: asyncio.subprocess.Process,
        handoff: socket.socket,
        channel: Channel,
    ) -> None:
        self.row = row
        self.handoff = handoff
        self.handed = 0
        self.serves = False
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
    async def start(cls, row: int, workers: int, ledger: Ledger, bells: Bells) -> "WorkerProcess":
        """Start one like ourselves, with the same arguments."""
        handoff, its_handoff = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel, its_channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        handoff.setblocking(False)
        words = [row, workers, its_handoff.fileno(), its_channel.fileno()]
        for number, bell in bells.descriptors.items():
            words += [number, bell]
        with its_handoff, its_channel:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *sys.orig_argv[1:], WORKER_OPTION, ",".join(map(str, words)),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[its_handoff.fileno(), its_channel.fileno(), *bells.descriptors.values()],
            )  # fmt: skip
            ledger.set_owner(row, process.pid, start_ticks(process.pid) or 0)
        return cls(row, ledger, process, handoff, await Channel.over(channel))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended; negative for a signal."""
        return self._process.returncode

    def open_connections(self) -> int:
        """Handed to it, and not closed since."""
        return self.handed - self._ledger.closed(self.row)

    async def ask(self, message: Message, seconds: float = ANSWER_SECONDS) -> Message:
        """Its answer. Raises WorkerError when there is none, or it could not do it."""
        async with self._asking:
            try:
                async with asyncio.timeout(seconds):
                    await self._channel.send(message)
                    answer = await self._answers.get()
            except TimeoutError:
                raise WorkerError(f"no answer to {message['do']} within {seconds:g} s") from None
            except ConnectionError as error:
                raise WorkerError(f"it takes no {message['do']}: {error}") from error
        if answer is None:
            self._answers.put_nowait(None)  # for whoever asks next
            raise WorkerError(f"it ended before it answered {message['do']}")
        if "error" in answer:
            raise WorkerError(f"{message['do']} failed: {answer['error']}")
        return answer

    def kill(self) -> None:
        """End it now; harmless when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    async def wait(self) -> None:
        """Return when its process has ended and everything it said was heard."""
        await self._process.wait()
        await self._listening
        self._channel.close()
        self.handoff.close()

    async def _listen(self) -> None:
        while (message := await self._channel.receive()) is not None:
            if "farewell" in message:
                self.last_metrics = message["farewell"]
                self.last_traffic = message["traffic"]
            else:
                self._answers.put_nowait(message)
        self._answers.put_nowait(None)
