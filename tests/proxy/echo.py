"""Scripts an engine that puts the token of its request into every piece of an answer.

The prompt says what to do, in `name=value` words:

    token=ab12   put into every piece of the answer
    count=5      pieces (tokens) of the answer
    pause=0.01   seconds before each piece
    hold=head    answer nothing; hold=body: a head and one piece, then nothing
    poison=1     the process dies

`python -m tests.proxy.echo PATH` runs it as a process that can be killed.
"""

import asyncio
import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.proxy.scripted import (
    DONE,
    END,
    STREAM_HEAD,
    Received,
    ScriptedEngine,
    Step,
    answer,
    chunk,
    event,
)

_WORD = re.compile(r"(\w+)=([^\s\"\\]+)")


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks of the engine."""

    chat: bool
    stream: bool
    token: str
    count: int


def words_of(request: Received) -> dict[str, str]:
    """The `name=value` words of a request's prompt, or of its messages."""
    return dict(_WORD.findall(json.dumps(request.body)))


def read_wish(request: Received) -> Wish:
    words = words_of(request)
    return Wish(
        chat="chat" in request.path,
        stream=bool(request.body.get("stream")),
        token=words.get("token", "none"),
        count=int(words.get("count", "3")),
    )


def piece(token: str, number: int) -> str:
    """One token of an answer."""
    return f"{token}-{number} "


def full_text(token: str, count: int) -> str:
    """The text of a complete answer."""
    return "".join(piece(token, number) for number in range(count))


def answer_pieces(wish: Wish) -> Iterator[bytes]:
    """What goes onto the wire, piece by piece; a chunk is a piece."""
    kind = "chat.completion" if wish.chat else "text_completion"
    about: dict[str, object] = {
        "id": f"id-{wish.token}",
        "object": kind,
        "created": 1,
        "model": "m",
    }
    if not wish.stream:
        yield _whole(wish, about)
        return
    yield STREAM_HEAD
    if wish.chat:
        about["object"] = "chat.completion.chunk"
        role = {"choices": [{"index": 0, "delta": {"role": "assistant"}}]}
        yield chunk(event(about | role))
    for number in range(wish.count):
        text = piece(wish.token, number)
        said: dict[str, object] = {"delta": {"content": text}} if wish.chat else {"text": text}
        last = number == wish.count - 1
        choice = {"index": 0, "finish_reason": "length" if last else None, **said}
        yield chunk(event(about | {"choices": [choice]}))
    yield chunk(DONE)
    yield END


def _whole(wish: Wish, about: dict[str, object]) -> bytes:
    text = full_text(wish.token, wish.count)
    choice: dict[str, object] = {"index": 0, "finish_reason": "length"}
    choice |= {"message": {"role": "assistant", "content": text}} if wish.chat else {"text": text}
    count = wish.count
    usage = {"prompt_tokens": 4, "completion_tokens": count, "total_tokens": count + 4}
    (data,) = answer(about | {"choices": [choice], "usage": usage})
    assert isinstance(data, bytes)
    return data


def echo(request: Received) -> list[Step]:
    """The script."""
    words = words_of(request)
    if "poison" in words:
        os._exit(1)
    pieces = list(answer_pieces(read_wish(request)))
    if hold := words.get("hold"):
        return [*pieces[: 0 if hold == "head" else 3], "hold"]
    pause = float(words.get("pause", "0"))
    return [step for data in pieces for step in (data, pause)]


async def _main(path: Path) -> None:
    await ScriptedEngine(path, echo).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
