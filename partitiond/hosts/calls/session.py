"""Keeps the calls of one near side at the far side, from their begin until nobody awaits them."""

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from partitiond.core.errors import ConflictError, NotReadyError, PartitiondError
from partitiond.hosts.calls.messages import Awaited, CallNews, ErrorRecord, record_of
from partitiond.serde import to_jsonable

TOLD_MOST: Final = 100
"""Words of progress that are kept for a call; older ones are dropped, for the newest says more."""
CALLS_MOST: Final = 4096
"""Calls that are kept for a near side. Chosen: a host with a hundred engines has some hundreds."""
NEWS_BYTES: Final = 16 * 1024 * 1024
"""Size of results from which on an answer takes no further one. Chosen: below a frame's limit."""

Tell = Callable[..., None]
Work = Callable[[Tell], Coroutine[Any, Any, tuple[Any, ErrorRecord | None, int]]]
"""Does a call; returns its result as JSON or its error, and the size of that in bytes."""


@dataclasses.dataclass(slots=True, eq=False)
class FarCall:
    """A call that was begun.

    Attributes:
        told: the words of its progress that the near side may not know, each with its number.
        announced: the near side was told that it runs: news bring its result.
        is_cancelled: set once: a second cancel would cut short what the first one has it clean up.
    """

    task: "asyncio.Task[tuple[Any, ErrorRecord | None, int]]"
    told: deque[tuple[int, tuple[Any, ...]]]
    words: int = 0
    announced: bool = False
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Have it end, once."""
        if not self.is_cancelled and not self.task.done():
            self.is_cancelled = True
            self.task.cancel()

    def news(self, known: int) -> CallNews:
        """Return what has become of it, for whoever knows so many words of its progress."""
        told = tuple(word for word in self.told if word[0] > known)
        if not self.task.done():
            return CallNews(told=told)
        if self.task.cancelled():
            return CallNews(True, error=record_of(PartitiondError("the call was cancelled.")))
        value, error, _ = self.task.result()
        return CallNews(True, value, error, told)

    def size_bytes(self) -> int:
        """Return the size of its result; 0 until it has one."""
        return self.task.result()[2] if self.task.done() and not self.task.cancelled() else 0


class SessionCalls:
    """The calls of one near side. All methods run in one event loop."""

    def __init__(self) -> None:
        self._calls: dict[int, FarCall] = {}
        self._upto = 0
        self._may_begin: set[int] = set()
        """Numbers up to `_upto` that were awaited all the time, and may still begin."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._changed = asyncio.Event()
        self._has_ended = False

    def note(self, awaited: Awaited) -> None:
        """End and forget what the near side does not wait for any more.

        A message that is late says less than was known, never something else: a number that was
        given up is not awaited again.
        """
        upto, wanted = awaited.upto, awaited.calls
        for number in [n for n in self._calls if n <= upto and n not in wanted]:
            self._calls.pop(number).cancel()
        for number, known in wanted.items():
            if (call := self._calls.get(number)) is not None:
                while call.told and call.told[0][0] <= known:
                    call.told.popleft()
        kept = {n for n in self._may_begin if n > upto or n in wanted}
        self._may_begin = kept | {n for n in wanted if self._upto < n <= upto}
        self._upto = max(self._upto, upto)

    def begin(self, number: int, work: Work) -> FarCall:
        """Begin a call, or return the one that has this number.

        Raises:
            ConflictError: it was given up or cancelled before.
            NotReadyError: there are too many.
        """
        if (known := self._calls.get(number)) is not None:
            return known
        if number <= self._upto and number not in self._may_begin:
            raise ConflictError("the call was given up before it began.")
        if len(self._calls) >= CALLS_MOST:
            raise NotReadyError(
                f"this host has {CALLS_MOST} calls already.", hint="Try again later."
            )
        told: deque[tuple[int, tuple[Any, ...]]] = deque(maxlen=TOLD_MOST)
        loop = asyncio.get_running_loop()

        def tell(*said: object) -> None:  # perhaps in a thread
            word = tuple(to_jsonable(one) for one in said)
            loop.call_soon_threadsafe(self._tell, call, word)

        call = self._calls[number] = FarCall(loop.create_task(work(tell)), told)
        self._tasks.add(call.task)
        call.task.add_done_callback(self._ended)
        return call

    async def cancel(self, number: int, seconds: float) -> bool:
        """Cancel a call and wait for its end so long; return whether it has ended.

        A call that was not begun yet never will be: the message that cancels it awaits it last.
        """
        call = self._calls.get(number)
        if call is None:
            self._may_begin.discard(number)
            return True
        call.cancel()
        await asyncio.wait({call.task}, timeout=seconds)
        return call.task.done()

    async def news(
        self, awaited: Awaited, seconds: float
    ) -> tuple[dict[int, CallNews], tuple[int, ...]]:
        """Return what has become of calls, as soon as there is something or after the time; and
        which of the awaited ones are not known here. Once all is ended, it waits no longer.
        """
        try:
            async with asyncio.timeout(seconds):
                while not (found := self._news(awaited)) and not self._has_ended:
                    await self._changed.wait()
        except TimeoutError:
            found = {}
        return found, tuple(number for number in awaited.calls if number not in self._calls)

    def _news(self, awaited: Awaited) -> dict[int, CallNews]:
        found: dict[int, CallNews] = {}
        size_bytes = 0
        for number, call in self._calls.items():
            is_awaited = number in awaited.calls or number > awaited.upto  # begun since
            if not (call.announced and is_awaited):
                continue
            news = call.news(awaited.calls.get(number, 0))
            if (news.ended or news.told) and size_bytes < NEWS_BYTES:
                found[number] = news
                size_bytes += call.size_bytes()
        return found

    def end(self) -> set["asyncio.Task[Any]"]:
        """Cancel everything; return what has not ended yet."""
        self._has_ended = True
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()
        self._wake()
        return set(self._tasks)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        self._wake()

    def _tell(self, call: FarCall, word: tuple[Any, ...]) -> None:
        call.words += 1
        call.told.append((call.words, word))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
