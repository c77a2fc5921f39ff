"""Messages and answers of other releases are read, with fields that this one does not know.

The files of `recorded` were written by calls that were made (`recording.py`).
"""

import copy
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest

from partitiond.hosts.calls.far import HostServer
from partitiond.hosts.calls.messages import (
    OLDEST_VERSION,
    AgentAnswer,
    ErrorRecord,
    Message,
    error_of,
    read_answer,
    read_message,
    write,
)
from partitiond.hosts.calls.signatures import METHODS, HostLook
from partitiond.ports.host_agent import MESSAGE_VERSION
from partitiond.serde import from_stored, to_jsonable
from tests.bodies.test_bodies import as_far_as, parts
from tests.hosts.calls.recording import (
    HOST_ID,
    RECORDED,
    Recorded,
    as_recorded,
    as_sent,
    made_agent,
    record,
    unpacked,
)

QUESTIONS = {"look", "hello", "news", "cancel", "engine_problem", "log_tail"}
OTHER_ANSWERS = {
    "error",
    "later",
    "refused: a lower epoch",
    "refused: an earlier start",
    "refused: another host",
    "restarted",
    "unknown",
}
OF_QUESTION: dict[str, Any] = {
    "look": HostLook,
    "engine_problem": ErrorRecord | None,
    "log_tail": str,
}


def kept(what: str, version: int) -> Recorded:
    path = RECORDED / f"{what}-{version}.json"
    return unpacked(json.loads(path.read_text(encoding="utf-8")))


VERSIONS = range(OLDEST_VERSION, MESSAGE_VERSION + 1)
MESSAGES = {(v, name): one for v in VERSIONS for name, one in kept("messages", v).items()}
ANSWERS = {(v, name): one for v in VERSIONS for name, one in kept("answers", v).items()}


def typed_arguments(message: Message) -> dict[str, Any]:
    """The arguments as the called method gets them, without bytes."""
    how = METHODS.get(message.call)
    return {} if how is None else how.read(message.call, message.arguments, message.data)


def typed_results(name: str, answer: AgentAnswer) -> Iterator[tuple[Any, Any]]:
    """Each result as the caller gets it, beside its form in the answer."""
    kind: Any = OF_QUESTION.get(name, METHODS[name].result if name in METHODS else None)
    for news in answer.calls.values():
        if news.ended and news.error is None:  # of `news`, too: of the profile that was awaited
            of = METHODS["profiler.run"].result if name == "news" else kind
            yield from_stored(of, news.value), news.value
    if kind is not None and answer.value is not None:
        yield from_stored(kind, answer.value), answer.value


def coloured(value: Any, body: Any) -> None:
    """Add a field that no release knows to each object of a body that a record was read from."""
    for _, own in list(parts(value, body)):
        own["colour"] = {"red": [1]}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_call_and_every_kind_of_answer_is_recorded(version: int) -> None:
    """After a new call: `python -m tests.hosts.calls.recording`."""
    assert set(kept("messages", version)) == METHODS.keys() | QUESTIONS
    assert set(kept("answers", version)) == METHODS.keys() | QUESTIONS | OTHER_ANSWERS


@pytest.mark.parametrize("of", MESSAGES, ids=str)
def test_a_recorded_message_says_what_it_said(of: tuple[int, str]) -> None:
    recorded = MESSAGES[of]
    body = recorded["body"]
    message = read_message(as_sent(recorded))
    again = json.loads(write(message).partition(b"\n")[0])
    assert as_far_as(body, again) == body
    how = METHODS.get(message.call)
    for name, value in typed_arguments(message).items():
        if how is None or name != how.data:
            given = body["arguments"][name]
            assert as_far_as(given, to_jsonable(value)) == given
        else:
            assert value == bytes.fromhex(recorded["data"])


@pytest.mark.parametrize("of", MESSAGES, ids=str)
def test_fields_of_messages_that_another_release_adds_are_ignored(of: tuple[int, str]) -> None:
    later = copy.deepcopy(MESSAGES[of])
    message = read_message(as_sent(later))
    arguments = typed_arguments(message)
    for name, value in arguments.items():
        coloured(value, later["body"]["arguments"].get(name))
    later["body"]["arguments"]["colour"] = "red"
    if message.awaited is not None:
        later["body"]["awaited"]["colour"] = 1
    coloured(dataclasses.replace(message, arguments={}, awaited=None), later["body"])
    read = read_message(as_sent(later))
    assert dataclasses.replace(read, arguments={}) == dataclasses.replace(message, arguments={})
    assert typed_arguments(read) == arguments


@pytest.mark.parametrize("of", ANSWERS, ids=str)
def test_a_recorded_answer_says_what_it_said(of: tuple[int, str]) -> None:
    body = ANSWERS[of]["body"]
    answer = read_answer(as_sent(ANSWERS[of]))
    again = json.loads(write(answer).partition(b"\n")[0])
    assert as_far_as(body, again) == body
    for value, told in typed_results(of[1], answer):
        assert as_far_as(told, to_jsonable(value)) == told


@pytest.mark.parametrize("of", ANSWERS, ids=str)
def test_fields_of_answers_that_another_release_adds_are_ignored(of: tuple[int, str]) -> None:
    later = copy.deepcopy(ANSWERS[of])
    whole = read_answer(as_sent(later))
    results = [value for value, _ in typed_results(of[1], whole)]
    body = later["body"]
    values = [body["value"], *(news["value"] for news in body["calls"].values())]
    for result in results:
        for value in values:
            if value is not None:
                coloured(result, value)
    bare = {n: dataclasses.replace(news, value=None) for n, news in whole.calls.items()}
    for number, news in bare.items():
        coloured(news, body["calls"][str(number)])
    coloured(dataclasses.replace(whole, value=None, calls={}), body)
    read = read_answer(as_sent(later))
    assert [value for value, _ in typed_results(of[1], read)] == results
    assert (read.refused, read.error, read.later) == (whole.refused, whole.error, whole.later)


@pytest.mark.parametrize("version", VERSIONS)
def test_refusals_and_errors_are_those_that_they_were(version: int) -> None:
    found = {}
    for name, one in kept("answers", version).items():
        answer = read_answer(as_sent(one))
        record = answer.refused or next((n.error for n in answer.calls.values() if n.error), None)
        if record is not None:
            found[name] = type(error_of(record)).__name__
    assert found == {
        "cancel": "PartitiondError",
        "error": "ExitedError",
        "refused: a lower epoch": "FencedError",
        "refused: an earlier start": "FencedError",
        "refused: another host": "ConflictError",
    }


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_host_does_what_a_recorded_head_asks(version: int) -> None:
    server = HostServer(made_agent())
    for name in ("hello", "look", "engines.find", "proxy.ensure_running", "partitions.faults"):
        message = copy.deepcopy(kept("messages", version)[name])
        message["body"] |= {"agent": server._start, "colour": 1, "awaited": None}
        message["body"].pop("host_id", None)  # as the first release wrote none
        answer = read_answer(await server.answer(as_sent(message)))
        assert (answer.refused, answer.error, answer.restarted) == (None, None, False), name
        assert answer.host_id == HOST_ID


async def test_what_is_sent_now_is_what_is_recorded() -> None:
    """After a change on purpose: `python -m tests.hosts.calls.recording`."""
    messages, answers = await record()
    for now, what in ((messages, "messages"), (answers, "answers")):
        then = kept(what, MESSAGE_VERSION)
        assert now.keys() == then.keys()
        for name, one in now.items():
            assert shape(one) == shape(then[name]), name


def shape(value: Any) -> Any:
    """A body without what may differ: texts, numbers, and how many there are of something."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items() if key != "calls"}
    return [shape(one) for one in value[:1]] if isinstance(value, list) else type(value).__name__


def test_data_follow_a_message_as_they_were() -> None:
    (one,) = (one for (_, name), one in MESSAGES.items() if name == "folders.write")
    assert as_recorded(as_sent(one)) == one
    assert read_message(as_sent(one)).data == b"{\n}"
