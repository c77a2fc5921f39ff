"""Keeps the calls of one head at the far side, from their begin until nobody awaits them."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from partitiond.core.errors import ConflictError, PartitiondError
from partitiond.hosts.calls.messages import Awaited, CallNews, record_of
from partitiond.serde import to_jsonable

TOLD_MOST: Final = 100
"""Words of progress that are kept for a call; older ones are dropped, for the newest says more."""

Tell = Callable[..., None]
Work = Callable[[Tell], Coroutine[Any, Any, Any]]
"""Does a call; returns its result as JSON."""


class FarCall:
    """A call that was begun. To be made in the event loop.

    Args:
        changed: called in the loop whenever there is news.
    """

    def __init__(self, work: Work, changed: Callable[[], None]) -> None:
        self._words = 0
        self._told: deque[tuple[int, tuple[Any, ...]]] = deque(maxlen=TOLD_MOST)
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self.task = self._loop.create_task(work(self._tell))
        self.task.add_done_callback(lambda _: changed())
        self._is_cancelled = False

    def _tell(self, *said: object) -> None:  # perhaps in a thread
        word = tuple(to_jsonable(one) for one in said)
        self._loop.call_soon_threadsafe(self._note, word)

    def _note(self, word: tuple[Any, ...]) -> None:
        self._words += 1
        self._told.append((self._words, word))
        self._changed()

    def cancel(self) -> None:
        """Have it end. A second cancel would cut short what the first one has it clean up."""
        if not self._is_cancelled:
            self._is_cancelled = True
            self.task.cancel()

    def news(self, known: int) -> CallNews:
        """Return what has become of it, for whoever knows so many words of its progress."""
        told = tuple(word for word in self._told if word[0] > known)
        if not self.task.done():
            return CallNews(told=told)
        error: BaseException | None = PartitiondError("the call was cancelled.")
        if not self.task.cancelled() and (error := self.task.exception()) is None:
            return CallNews(True, self.task.result(), told=told)
        assert error is not None
        return CallNews(True, error=record_of(error), told=told)


class HeadCalls:
    """The calls of one head. All methods run in one event loop."""

    def __init__(self) -> None:
        self._calls: dict[int, FarCall] = {}
        self._upto = 0
        self._may_begin: set[int] = set()
        """Numbers up to `_upto` that were awaited all the time, and may still begin."""
        self._running: set[asyncio.Task[Any]] = set()
        self._changed = asyncio.Event()
        self._has_ended = False

    def note(self, awaited: Awaited) -> None:
        """End and forget what the head does not wait for any more.

        A message that is late says less than was known, never something else: a number that was
        given up is not awaited again.
        """
        upto, wanted = awaited.upto, awaited.calls
        for number in [n for n in self._calls if n <= upto and n not in wanted]:
            self._calls.pop(number).cancel()
        kept = {n for n in self._may_begin if n > upto or n in wanted}
        self._may_begin = kept | {n for n in wanted if self._upto < n <= upto}
        self._upto = max(self._upto, upto)

    def begin(self, number: int, work: Work) -> FarCall:
        """Begin a call, or return the one that has this number.

        Raises:
            ConflictError: it was given up or cancelled before.
        """
        if (known := self._calls.get(number)) is not None:
            return known
        if number <= self._upto and number not in self._may_begin:
            raise ConflictError("the call was given up before it began.")
        call = self._calls[number] = FarCall(work, self._wake)
        self._running.add(call.task)
        call.task.add_done_callback(self._running.discard)
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

    async def news(self, awaited: Awaited, seconds: float) -> dict[int, CallNews]:
        """Return what has become of calls, as soon as there is something or after the time. Once
        all is ended, it waits no longer.
        """
        try:
            async with asyncio.timeout(seconds):
                while not (found := self._news(awaited)) and not self._has_ended:
                    await self._changed.wait()
        except TimeoutError:
            return {}
        return found

    def _news(self, awaited: Awaited) -> dict[int, CallNews]:
        news = {n: call.news(awaited.calls.get(n, 0)) for n, call in self._calls.items()}
        return {number: one for number, one in news.items() if one.ended or one.told}

    def end(self) -> set["asyncio.Task[Any]"]:
        """Cancel everything; return what has not ended yet."""
        self._has_ended = True
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()
        self._wake()
        return set(self._running)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
