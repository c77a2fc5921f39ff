"""Loads simulated engines with streams and whole answers, and records how each answer ended."""

import asyncio
import collections
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator

from tests.chaos.raw_client import Answer, RawClient
from tests.chaos.rig import until
from tests.chaos.verdicts import Verdict, check_error, read_stream

REPLICA_HEADER = "x-partitiond-replica"


@dataclasses.dataclass(frozen=True)
class Ended:
    """One request's end.

    Attributes:
        replica: whose answer the client got; empty where there was none.
        began: when the client got the first byte of the answer's body.
    """

    verdict: Verdict
    stream: bool
    replica: str
    code: str
    started: float
    began: float
    finished: float


class Load:
    """Clients that ask again and again, each on its own connection."""

    def __init__(self, port: int, *, clients: int, tokens: int, model: str = "m") -> None:
        self._port = port
        self._clients = clients
        self._tokens = tokens
        self._model = model
        self._stopping = False
        self.running = 0
        self.ended: list[Ended] = []

    @contextlib.asynccontextmanager
    async def under_way(self) -> AsyncIterator["Load"]:
        """Ask until the block ends; then let what runs finish."""
        workers = [asyncio.create_task(self._work(number)) for number in range(self._clients)]
        try:
            yield self
        finally:
            self._stopping = True
            await asyncio.gather(*workers)

    async def ends(self, count: int) -> None:
        """Wait for so many more requests to end."""
        goal = len(self.ended) + count
        await until(lambda: len(self.ended) >= goal, f"{count} more requests", 60)

    def tally(self) -> dict[str, int]:
        return dict(
            collections.Counter(f"{e.verdict}{e.code and ' ' + e.code}" for e in self.ended)
        )

    def failed(self) -> list[Ended]:
        return [ended for ended in self.ended if ended.verdict is not Verdict.COMPLETE]

    async def _work(self, number: int) -> None:
        stream, is_chat = number % 3 > 0, number % 2 > 0
        # Of different lengths, so that a blow meets requests in all phases.
        asked = _Asked(self._model, self._tokens + 3 * number, stream, is_chat)
        with RawClient(self._port) as client:
            while not self._stopping:
                self.ended.append(await self._once(client, asked))
                if self.ended[-1].verdict is Verdict.REFUSED:
                    await asyncio.sleep(0.05)

    async def _once(self, client: RawClient, asked: "_Asked") -> Ended:
        started = time.monotonic()
        self.running += 1
        try:
            async with asyncio.timeout(60):
                answer = await client.post(asked.path, asked.payload())
        finally:
            self.running -= 1
        verdict, code = asked.judge(answer)
        replica = answer.headers.get(REPLICA_HEADER, "")
        now = time.monotonic()
        began = now - answer.seconds + answer.first_seconds
        return Ended(verdict, asked.stream, replica, code, started, began, now)


class _Asked:
    """What one client asks, each time the same: the first complete answer is the right one."""

    def __init__(self, model: str, tokens: int, stream: bool, is_chat: bool) -> None:
        self._model = model
        self._tokens = tokens
        self.stream = stream
        self._is_chat = is_chat
        self._want = ""
        self._sent = 0

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self._is_chat else "/v1/completions"

    def payload(self) -> dict[str, object]:
        said = f"the {self._tokens} of me"
        self._sent += 1  # no two bodies are the same: a request is no suspect of another's deed
        prompt: dict[str, object] = {"prompt": said}
        if self._is_chat:
            prompt = {"messages": [{"role": "user", "content": said}]}
        return {
            **prompt,
            "model": self._model,
            "stream": self.stream,
            "max_tokens": self._tokens,
            "ignore_eos": True,
            "temperature": 0,
            "user": f"{id(self)}-{self._sent}",
        }

    def judge(self, answer: Answer) -> tuple[Verdict, str]:
        """The verdict, and the error's code."""
        if answer.status != 200:
            check_error(answer)
            return Verdict.REFUSED, answer.code
        assert answer.complete, f"cut off without a word: {answer}"
        error: object | None = None
        if answer.is_stream:
            text, error = read_stream(answer.body, is_chat=self._is_chat)
        else:
            choice = json.loads(answer.body)["choices"][0]
            text = choice["message"]["content"] if self._is_chat else choice["text"]
        assert text, "a stream that had no content is retried or refused, not broken off"
        if error is None:
            self._want = self._want or text
            assert text == self._want, f"truncated or mixed up: {text!r}, not {self._want!r}"
            return Verdict.COMPLETE, ""
        assert not self._want or self._want.startswith(text), f"mixed up: {text!r}"
        assert isinstance(error, dict)
        return Verdict.BROKEN_OFF, str(error["code"])
