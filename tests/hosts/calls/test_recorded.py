"""What a head and an agent say to each other is what is recorded, and what other releases say is
read, with fields that this one does not know.

The files of `recorded` are of calls that were made. What a released version may have sent stays in
its file; a new call is written into those of the present one.
"""

import asyncio
import copy
import dataclasses
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from partitiond.hosts.calls import messages, near
from partitiond.hosts.calls.far import HostServer
from partitiond.hosts.calls.near import RemoteHost
from partitiond.hosts.calls.signatures import METHODS, QUESTIONS, HostLook
from partitiond.ports.host_agent import MESSAGE_VERSION, AgentFacts
from partitiond.serde import from_stored, to_jsonable
from tests.bodies.test_bodies import as_far_as

RECORDED = Path(__file__).parent / "recorded"
ASKED = {"look", "hello", "news", "cancel", "engine_problem"}
OTHER_ANSWERS = {
    "error": "ExitedError",
    "later": "",
    "refused: a lower epoch": "FencedError",
    "refused: an earlier start": "FencedError",
    "refused: another host": "ConflictError",
    "restarted": "",
    "unknown": "",
}
"""With the errors that they are read as."""
OF_QUESTION: dict[str, Any] = {
    "look": HostLook,
    "engine_problem": messages.ErrorRecord | None,
}
UNREAD = {
    *("line", "unknown", "machine_id", "message_version"),
    *("links", "nvlinks", "nvswitch", "numa_node", "pcie"),
}
"""What a release before said, and nobody reads any more."""
UNSAID = {"tower_parameters", "pools", "built_for", "host_lacks"}
"""What a release before did not say."""
Recorded = dict[str, Any]
"""A message or an answer, with its data as hexadecimal digits, by what it is of."""


def kept(what: str, version: int, without: set[str] = UNREAD) -> Recorded:
    """A file, in which what bodies have in common stands once, and their long parts, too."""
    file = json.loads((RECORDED / f"{what}-{version}.json").read_text(encoding="utf-8"))

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            return [whole(part) for part in value]
        if not isinstance(value, dict):
            return value
        if value.keys() == {"as"}:
            return whole(file["parts"][value["as"]])
        return {key: whole(part) for key, part in value.items() if key not in without}

    every, of = whole(file["every"]), {name: whole(one) for name, one in file["of"].items()}
    return {name: one | {"body": {**every, **one["body"]}} for name, one in of.items()}


VERSIONS = range(messages.OLDEST_VERSION, MESSAGE_VERSION + 1)
MESSAGES, ANSWERS, OLD_MESSAGES, OLD_ANSWERS = (
    {(v, name): one for v in VERSIONS for name, one in kept(what, v, without).items()}
    for without in (UNREAD, UNREAD | UNSAID)
    for what in ("messages", "answers")
)


def as_sent(recorded: dict[str, Any]) -> bytes:
    """The bytes of a recorded message or answer."""
    text = json.dumps(recorded["body"]).encode()
    return text if "data" not in recorded else text + b"\n" + bytes.fromhex(recorded["data"])


def body_of(message: messages.Message | messages.AgentAnswer) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(messages.write(message).partition(b"\n")[0])
    return body


def typed_arguments(message: messages.Message) -> dict[str, Any]:
    """The arguments as the called method gets them, without bytes."""
    how = METHODS.get(message.call)
    return {} if how is None else how.read(message.call, message.arguments, message.data)


def typed_results(name: str, answer: messages.AgentAnswer) -> Iterator[tuple[Any, Any]]:
    """Each result as the caller gets it, beside its form in the answer."""
    kind: Any = OF_QUESTION.get(name, METHODS[name].result if name in METHODS else None)
    for news in answer.calls.values():
        if news.ended and news.error is None:  # of `news`, too: of the profile that was awaited
            of = METHODS["profiler.run"].result if name == "news" else kind
            yield from_stored(of, news.value), news.value
    if kind is not None and answer.value is not None:
        yield from_stored(kind, answer.value), answer.value


def test_every_call_and_every_kind_of_answer_is_recorded() -> None:
    names = METHODS.keys() | ASKED
    assert MESSAGES.keys() == {(v, name) for v in VERSIONS for name in names}
    assert ANSWERS.keys() == {(v, name) for v in VERSIONS for name in names | OTHER_ANSWERS.keys()}


def test_a_recorded_message_says_what_it_said() -> None:
    for of, recorded in (*MESSAGES.items(), *OLD_MESSAGES.items()):
        body, message = recorded["body"], messages.read_message(as_sent(recorded))
        assert as_far_as(body, body_of(message)) == body, of
        how = METHODS.get(message.call)
        for name, value in typed_arguments(message).items():
            if how is None or name != how.data:
                given = body["arguments"][name]
                assert as_far_as(given, to_jsonable(value)) == given, of
            else:
                assert value == bytes.fromhex(recorded["data"]), of


def test_a_recorded_answer_says_what_it_said() -> None:
    for of, recorded in (*ANSWERS.items(), *OLD_ANSWERS.items()):
        answer = messages.read_answer(as_sent(recorded))
        assert as_far_as(recorded["body"], body_of(answer)) == recorded["body"], of
        for value, told in typed_results(of[1], answer):
            assert as_far_as(told, to_jsonable(value)) == told, of
        error = answer.refused or next((n.error for n in answer.calls.values() if n.error), None)
        kind = "PartitiondError" if of[1] == "cancel" else OTHER_ANSWERS.get(of[1], "")
        assert (type(messages.error_of(error)).__name__ if error else "") == kind, of


class RecordedLine:
    """Answers each message as it was answered once, with a field of a later release."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.sent: dict[str, bytes] = {}

    async def call(self, body: bytes) -> bytes:
        name = messages.read_message(body).call
        self.sent[name] = body
        later = copy.deepcopy(ANSWERS[self.version, name])
        later["body"]["colour"] = {"red": [1]}
        return as_sent(later)


async def made(here: RemoteHost, message: messages.Message) -> Any:
    """Make a call as the control plane makes it."""
    name, arguments = message.call, typed_arguments(message)
    port, _, method = name.partition(".")
    match name:
        case "look":
            return await asyncio.to_thread(here.look)
        case _ if port in ("gauges", "devices"):
            ask = getattr(getattr(here, port), method)
            return await asyncio.to_thread(ask, **arguments)
        case _ if port in QUESTIONS:
            return await here.question(name, arguments)
    told = METHODS[name].told
    return await here.call(name, arguments, None if told is None else lambda *_: None)


async def test_what_is_sent_now_is_what_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the caller gets what the answer says."""
    for name in METHODS.keys() | {"look"}:
        recorded = MESSAGES[MESSAGE_VERSION, name]
        message, line = messages.read_message(as_sent(recorded)), RecordedLine(MESSAGE_VERSION)
        here = RemoteHost("two", line, head=message.head, host_id=message.host_id)
        here._agent, here._last_word = "agent-1", time.monotonic()
        monkeypatch.setattr(near, "_NUMBERS", itertools.count(message.number))
        found = await made(here, message)
        await here.close()
        sent = messages.read_message(line.sent[name])
        if not message.number:  # of a thread, which did not know what was awaited
            message = dataclasses.replace(message, awaited=messages.Awaited())
        assert sent == message, name
        answer = messages.read_answer(as_sent(ANSWERS[MESSAGE_VERSION, name]))
        for value, _ in typed_results(name, answer):
            assert found == value, name


class RecordedAgent:
    """An agent each of whose methods returns what was answered once."""

    name = "two"

    def __init__(self, results: dict[str, Any]) -> None:
        self._results = results

    def facts(self) -> AgentFacts:
        return AgentFacts("two", host_id=messages.read_answer(as_sent(ANSWERS[1, "hello"])).host_id)

    def __getattr__(self, port: str) -> Any:
        return RecordedPort(port, self._results)


class RecordedPort:
    def __init__(self, port: str, results: dict[str, Any]) -> None:
        self._port = port
        self._results = results

    def __getattr__(self, method: str) -> Any:
        async def called(**_: Any) -> Any:
            return self._results[f"{self._port}.{method}"]

        return called


async def test_what_is_answered_now_is_what_is_recorded() -> None:
    """To heads of each version, also of those that wrote no `host_id`, or fields of a later one."""
    for (version, name), recorded in MESSAGES.items():
        answer = messages.read_answer(as_sent(ANSWERS[version, name]))
        ends = all(news.ended for news in answer.calls.values())
        if not ends or name not in {*METHODS, "hello"}:
            continue
        results = {name: next((value for value, _ in typed_results(name, answer)), answer.data)}
        server = HostServer(RecordedAgent(results))
        message = copy.deepcopy(recorded)
        message["body"] |= {"agent": server._start, "awaited": None}
        message["body"].pop("host_id", None)
        for part in (message["body"], message["body"]["arguments"], message["body"]["head"]):
            part["colour"] = {"red": [1]}
        found = messages.read_answer(await server.answer(as_sent(message)))
        calls = {n: dataclasses.replace(one, told=()) for n, one in answer.calls.items()}
        found = dataclasses.replace(found, agent=answer.agent, release=answer.release)
        assert found == dataclasses.replace(answer, calls=calls), name
