"""Reads from subjects that may never answer (a driver, a helper, /proc) with a deadline.

A call that hangs in a driver cannot be ended; it can only be abandoned. Therefore each subject (a
GPU, a library, /proc) has at most one thread, which makes the calls about that subject one after
another, and callers wait for answers with a deadline. While a call hangs, further looks at its
subject are refused as soon as the deadline of that call has passed, and start no thread. Once the
call ends, the subject is looked at again.

The threads are daemon threads: a call that hangs does not keep this process from ending.
"""

import asyncio
import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Final, Generic, TypeVar, cast

from partitiond.core.errors import SilentError

T = TypeVar("T")

SILENT_SECONDS: Final = 30.0
"""Deadline of a look. A look takes milliseconds, and a driver that initialises a GPU or waits for a
reset takes seconds."""
MAX_WAITING: Final = 64
"""Most looks at one subject that may wait for their turn; further ones are refused."""


@dataclasses.dataclass(frozen=True, slots=True)
class PendingCall(Generic[T]):
    """A look in progress.

    Attributes:
        subject: the subject of the look, in words.
        future: the answer.
        seconds: time from the beginning to the deadline.
        deadline: the time at which the look is given up, in monotonic seconds.
    """

    subject: str
    future: "Future[T]"
    seconds: float
    deadline: float

    def silent(self) -> SilentError:
        """The error for a subject that did not answer in time."""
        return SilentError(
            f"{self.subject}: silent for {self.seconds:g} s.",
            hint="A call into it hangs: look into the kernel's log (`dmesg`). It is asked again "
            "once that call ends.",
            facts={"subject": self.subject, "silent_seconds": self.seconds},
        )

    def wait(self) -> T:
        """Wait for the answer in this thread. Raises SilentError, and errors of the call."""
        wait([self.future], max(0.0, self.deadline - time.monotonic()))
        return self._answer()

    async def answer(self) -> T:
        """Wait for the answer in the event loop. Raises SilentError, and errors of the call."""
        if not self.future.done():
            ended = asyncio.wrap_future(self.future)
            try:
                await asyncio.wait([ended], timeout=max(0.0, self.deadline - time.monotonic()))
            finally:
                ended.cancel()
        return self._answer()

    def _answer(self) -> T:
        # A look that waits for its turn is cancelled; a look that has begun cannot be ended.
        if self.future.cancel() or not self.future.done():
            raise self.silent()
        return self.future.result()


@dataclasses.dataclass(slots=True)
class _Lane:
    """The looks at one subject: one in progress, others waiting.

    Attributes:
        waiting: the future, the call and the seconds of each look that waits for its turn.
        overdue_at: when the look in progress has had its own seconds, in monotonic seconds.
    """

    overdue_at: float
    waiting: deque[tuple[Future[object], Callable[[], object], float]] = dataclasses.field(
        default_factory=deque
    )


class DeadlineCalls:
    """Makes looks, in one thread for each subject. Any thread may use it.

    Args:
        seconds: time limit of a look that names none.
    """

    def __init__(self, seconds: float = SILENT_SECONDS) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._lanes: dict[str, _Lane] = {}

    def begin(
        self, subject: str, call: Callable[[], T], seconds: float | None = None
    ) -> PendingCall[T]:
        """Begin a look. This never blocks.

        While another look at the same subject is overdue, the new look expires at once.
        """
        seconds = self.seconds if seconds is None else seconds
        now = time.monotonic()
        future: Future[T] = Future()
        with self._lock:
            lane = self._lanes.get(subject)
            if lane is None:
                lane = _Lane(now + seconds)
                threading.Thread(
                    target=self._work, args=(subject, lane), name=f"look at {subject}", daemon=True
                ).start()
                self._lanes[subject] = lane  # not if no thread can be started
            elif now >= lane.overdue_at or self._has_many(lane):
                future.cancel()
                return PendingCall(subject, future, seconds, now)
            lane.waiting.append((cast(Future[object], future), call, seconds))
        return PendingCall(subject, future, seconds, now + seconds)

    def ask(self, subject: str, call: Callable[[], T], seconds: float | None = None) -> T:
        """Look, and wait for the answer in this thread.

        Raises:
            SilentError: the subject did not answer in time; and what the call raises.
        """
        return self.begin(subject, call, seconds).wait()

    async def look(self, subject: str, call: Callable[[], T], seconds: float | None = None) -> T:
        """Look, and wait for the answer in the event loop.

        Raises:
            SilentError: the subject did not answer in time; and what the call raises.
        """
        return await self.begin(subject, call, seconds).answer()

    def _has_many(self, lane: _Lane) -> bool:
        lane.waiting = deque(entry for entry in lane.waiting if not entry[0].cancelled())
        return len(lane.waiting) >= MAX_WAITING

    def _work(self, subject: str, lane: _Lane) -> None:
        while True:
            with self._lock:
                if not lane.waiting:
                    del self._lanes[subject]  # engines come and go, each with its own subject
                    return
                future, call, seconds = lane.waiting.popleft()
                lane.overdue_at = time.monotonic() + seconds
            if future.set_running_or_notify_cancel():
                try:
                    answer = call()
                except BaseException as error:  # noqa: BLE001 - whoever waits gets it
                    future.set_exception(error)
                else:
                    future.set_result(answer)
