"""A client gets its own answer or an error after any fault between the proxy and its engines.

Each answer carries its request's token, so that a truncated or foreign answer is detected.
"""

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import json
from collections.abc import AsyncIterator

import pytest

from tests.proxy.answers import Answer, Client, Verdict, judge
from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, replica, table
from tests.proxy.echo import read_wish
from tests.proxy.faults import Fault, Kind, Phase, faults_of, may_end, most_sent, steps_of
from tests.proxy.scripted import Received, ScriptedEngine, Step
from tests.proxy.virtual import running_loop

COUNT = 5
SHAPES = tuple(itertools.product((True, False), repeat=2))
"""(chat, streamed)"""
LIMITS = {
    "first_token_timeout_seconds": 8.0,
    "between_tokens_timeout_seconds": 8.0,
    "total_timeout_seconds": 20.0,
}


class Engines:
    """What the engines do: the next request meets `fault`, once or at every attempt."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.only_reused = False
        """The fault meets only what comes on a connection that has served before."""
        self.sent: collections.Counter[str] = collections.Counter()
        self.struck = 0
        self._served: collections.Counter[int] = collections.Counter()

    def __call__(self, request: Received) -> list[Step]:
        wish = read_wish(request)
        is_reused = bool(self._served[request.connection])
        self._served[request.connection] += 1
        self.sent[wish.token] += 1
        fault = self.fault
        if (
            fault is None
            or (self.sent[wish.token] > 1 and not fault.always)
            or (self.only_reused and not is_reused)
        ):
            return steps_of(wish, None)
        self.struck += 1
        return steps_of(wish, fault)


@dataclasses.dataclass
class Rig:
    proxy: Proxy
    engines: Engines
    servers: tuple[ScriptedEngine, ...]

    def fresh(self, count: int) -> None:
        """So many replicas, with new connections and no failures that are remembered."""
        version = self.proxy.state.table.version + 1
        self.proxy.state.apply(
            table(
                *(
                    replica(
                        server.path, f"m-{number}", generation=str(version), max_model_len=100_000
                    )
                    for number, server in enumerate(self.servers[:count])
                ),
                version=version,
            )
        )

    async def answered(
        self, fault: Fault | None, token: str, client: Client, *, is_chat: bool, stream: bool
    ) -> tuple[Verdict, Answer]:
        """How a request ends that meets a fault."""
        self.engines.fault = fault
        prompt = f"token={token} count={COUNT}"
        async with asyncio.timeout(120):
            answer = await client.ask(prompt, chat=is_chat, stream=stream)
        return judge(answer, token, COUNT, is_chat=is_chat), answer

    def nothing_open(self) -> bool:
        """Whether no connection of a client or to an engine has an end that is still open."""
        return not (running_loop().open_sockets() or any(server.open for server in self.servers))

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        with Client(self.proxy.port) as client:
            yield client
        await self.proxy.until(self.proxy.idle)


@pytest.fixture
async def rig(make_proxy: MakeProxy, make_engine: MakeEngine) -> Rig:
    engines = Engines()
    proxy = await make_proxy(table(), retry_share=1.0, **LIMITS)
    return Rig(proxy, engines, tuple([await make_engine(engines, f"e{n}") for n in range(2)]))


@pytest.mark.parametrize("kind", list(Kind))
async def test_a_fault_in_any_phase_ends_as_promised(rig: Rig, kind: Kind) -> None:
    """Every phase, whole and streamed, completions and chat, once and at every attempt."""
    wrong: list[str] = []
    cases = [(c, s, fault) for c, s in SHAPES for fault in faults_of(kind, stream=s)]
    for number, (is_chat, stream, fault) in enumerate(cases):
        rig.fresh(2)
        what, token = f"{fault}, chat {is_chat}, streamed {stream}", f"t{number}"
        async with rig.client() as client:
            try:
                verdict, answer = await rig.answered(
                    fault, token, client, is_chat=is_chat, stream=stream
                )
            except AssertionError as error:
                wrong.append(f"{what}: {error}")
                continue
            if verdict not in may_end(fault, stream=stream):
                wrong.append(f"{what}: {verdict}, {answer.status} {answer.body[-300:]!r}")
            if rig.engines.sent[token] > most_sent(fault):
                wrong.append(f"{what}: sent {rig.engines.sent[token]} times")
            # The client's connection serves on: its next answer is its own, too.
            rig.fresh(2)
            after, _ = await rig.answered(None, f"a{number}", client, is_chat=False, stream=stream)
            if after is not Verdict.COMPLETE:
                wrong.append(f"after {what}: {after}")
    assert not wrong, "\n".join(wrong)
    assert rig.engines.struck >= len(cases), "faults that never happened"
    rig.fresh(0)
    await rig.proxy.until(rig.nothing_open)


REUSED = [
    *[(Fault(kind, Phase.BEFORE_HEAD), "") for kind in (Kind.CLOSE, Kind.RESET, Kind.HALF_CLOSE)],
    (Fault(Kind.CLOSE, Phase.IN_HEAD), "all"),  # what it had begun it may have worked on
    (Fault(Kind.GARBAGE, Phase.BEFORE_HEAD), "all"),
    (Fault(Kind.TWO_HEADS, Phase.AFTER_HEAD), "all"),
    (Fault(Kind.SURPLUS, Phase.AFTER_ANSWER), "whole answers"),
]


@pytest.mark.parametrize(("fault", "harmed"), REUSED, ids=str)
async def test_a_kept_connection_that_ends_before_an_answer_costs_nothing_and_else_is_a_failure(
    rig: Rig, fault: Fault, harmed: str
) -> None:
    """Engines close idle connections; the request goes once more to the same engine."""
    rig.engines.only_reused = True
    for number, (is_chat, stream) in enumerate(SHAPES):
        rig.fresh(1)
        for met in (None, fault, None):
            async with rig.client() as client:
                verdict, answer = await rig.answered(
                    met, f"t{number}{met}", client, is_chat=is_chat, stream=stream
                )
            is_harmed = met and (harmed == "all" or (harmed and not stream))
            assert verdict is (Verdict.REFUSED if is_harmed else Verdict.COMPLETE), answer
    assert rig.engines.struck == 4, "no connection was used again"
    assert {json.loads(line)["attempts"] for line in rig.proxy.log_lines} == {1}
