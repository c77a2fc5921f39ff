"""Answers embeddings, scores, ranks and pooling with vectors computed from the tokens.

Each token has a fixed direction, and a text has the direction of their sum: equal texts have equal
vectors, and texts that share tokens are near each other.
"""

import base64
import dataclasses
import functools
import json
import math
import operator
import random
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from partitiond.simulated.engine.completions import NO_DETAILS, usage
from partitiond.simulated.engine.generation import GeneratedAnswer, Generation, check_length
from partitiond.simulated.engine.refusals import (
    check_model,
    invalid,
    missing,
    refused,
    texts,
    whole,
)
from partitiond.simulated.engine.requests import chat_ids, prompt_ids, text_ids

Vector = tuple[float, ...]

DIMENSIONS: Final = 32
ENCODINGS: Final = ("float", "base64", "bytes", "bytes_only")
PAIRS: Final = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"))
"""Names of the two sides of a score, as vLLM accepts them."""


@functools.lru_cache(maxsize=65_536)
def _direction(token_id: int) -> Vector:
    made = random.Random(token_id)  # noqa: S311 -- no secret
    return tuple(made.gauss(0.0, 1.0) for _ in range(DIMENSIONS))


def vector_of(ids: Sequence[int]) -> Vector:
    """Return the embedding of a text, of length 1."""
    total = [math.fsum(parts) for parts in zip(*map(_direction, ids), strict=True)]
    length = math.hypot(*total) or 1.0
    return tuple(value / length for value in total)


def similarity(first: Sequence[int], second: Sequence[int]) -> float:
    """Return the cosine of two texts' embeddings."""
    return math.fsum(map(operator.mul, vector_of(first), vector_of(second)))


def work_of(prompts: Sequence[tuple[int, ...]]) -> Generation:
    """Return the engine's work for reading some prompts: one token each stands for the pooling."""
    return Generation(tuple(prompts), (GeneratedAnswer(("",), (0,), "stop"),) * len(prompts))


@dataclasses.dataclass(frozen=True, slots=True)
class PoolRequest:
    """Prompts whose vectors are requested.

    Attributes:
        encoding: how the vectors are written (`ENCODINGS`).
    """

    prompts: tuple[tuple[int, ...], ...]
    encoding: str


def read_inputs(body: Mapping[str, Any], model: str, max_model_len: int) -> PoolRequest:
    """Check a request for embeddings or pooling. Raises RefusedError."""
    encoding = body.get("encoding_format", "float")
    if encoding not in ENCODINGS:
        should = "Input should be 'float', 'base64', 'bytes' or 'bytes_only'"
        raise invalid("literal_error", "encoding_format", should, encoding)
    prompts = _inputs(body, model)
    check_model(body, model)
    dimensions = whole(body, "dimensions")
    if dimensions is not None:
        raise refused(
            f"Model '{model}' does not support Matryoshka embeddings; dimensions must be unset "
            f"(received dimensions={dimensions})."
        )
    if body.get("task") not in (None, "embed"):
        message = f"Try switching the model's pooling_task via --pooler-config.task {body['task']}."
        raise refused(f"{message} (parameter=task)", "task")
    keep = whole(body, "truncate_prompt_tokens")
    if keep is not None:
        limit = max_model_len if keep == -1 else min(keep, max_model_len)
        prompts = tuple(prompt[-limit:] for prompt in prompts)
    for prompt in prompts:
        check_length(prompt, max_model_len)
    return PoolRequest(prompts, encoding)


def _inputs(body: Mapping[str, Any], model: str) -> tuple[tuple[int, ...], ...]:
    given = body.get("input")
    if given is None and body.get("messages") is not None:
        return (chat_ids(body, model),)
    if isinstance(given, list) and given and isinstance(given[0], dict):
        return (chat_ids(body, model, "input"),)
    return prompt_ids(given, body, "input")


def vectors_body(
    wanted: PoolRequest, name: str, model: str, *, kind: str, field: str
) -> dict[str, Any]:
    """Return the JSON answer: `kind` is the type of each object, `field` the place of its
    vector.
    """
    data = []
    for index, prompt in enumerate(wanted.prompts):
        vector = vector_of(prompt)
        shown: object = list(vector)
        if wanted.encoding == "base64":
            shown = base64.b64encode(_packed(vector)).decode()
        data.append({"index": index, "object": kind, field: shown})
    counted = usage(sum(map(len, wanted.prompts)), 0) | NO_DETAILS
    head = {"id": name, "object": "list", "created": int(time.time()), "model": model}
    return head | {"data": data, "usage": counted}


def vectors_bytes(wanted: PoolRequest, name: str, model: str) -> tuple[bytes, str]:
    """Return the answer as raw 32-bit floats, and the JSON of its `metadata` header."""
    size = DIMENSIONS * 4
    tokens = sum(map(len, wanted.prompts))
    entries = [
        {
            "index": index,
            "embed_dtype": "float32",
            "endianness": "native",
            "start": index * size,
            "end": (index + 1) * size,
            "shape": [DIMENSIONS],
        }
        for index in range(len(wanted.prompts))
    ]
    head = {"id": name, "created": int(time.time()), "model": model, "data": entries}
    counted = {"prompt_tokens": tokens, "total_tokens": tokens}
    raw = b"".join(_packed(vector_of(prompt)) for prompt in wanted.prompts)
    return raw, json.dumps(head | {"usage": counted})


def _packed(vector: Vector) -> bytes:
    return struct.pack(f"={len(vector)}f", *vector)


def classes_body(wanted: PoolRequest, name: str, model: str) -> dict[str, Any]:
    """Return the answer of a classifier with two classes: the side of a plane that the text is
    on.
    """
    data = []
    for index, prompt in enumerate(wanted.prompts):
        share = 1 / (1 + math.exp(-4 * vector_of(prompt)[0]))
        data.append(
            {
                "index": index,
                "label": f"LABEL_{int(share < 0.5)}",
                "probs": [share, 1 - share],
                "num_classes": 2,
            }
        )
    counted = usage(sum(map(len, wanted.prompts)), 0) | NO_DETAILS
    head = {"id": name, "object": "list", "created": int(time.time()), "model": model}
    return head | {"data": data, "usage": counted}


Pair = tuple[tuple[int, ...], tuple[int, ...]]


def read_pairs(body: Mapping[str, Any], model: str, max_model_len: int) -> tuple[Pair, ...]:
    """Check a request for scores: 1:1, 1:N or N:N texts. Raises RefusedError."""
    fields = next((p for p in PAIRS if all(body.get(f) is not None for f in p)), None)
    if fields is None:
        first = next((p[0] for p in PAIRS if body.get(p[0]) is None), "text_2")
        raise missing(first, body)
    left, right = (tuple(map(text_ids, texts(body, field))) for field in fields)
    check_model(body, model)
    if not left or not right:
        raise refused("At least one text_pair element must be given")
    if len(left) not in (1, len(right)):
        raise refused("Input lengths must be either 1:1, 1:N or N:N")
    pairs = tuple(zip(left * (len(right) if len(left) == 1 else 1), right, strict=True))
    _check_pairs(pairs, max_model_len)
    return pairs


def _check_pairs(pairs: Sequence[Pair], max_model_len: int) -> None:
    for first, second in pairs:
        check_length(first, max_model_len)
        check_length(second, max_model_len)


def pair_tokens(pairs: Sequence[Pair]) -> int:
    """Return tokens read for some pairs; each text counts once."""
    return sum(map(len, {text for pair in pairs for text in pair}))


def scores_body(pairs: Sequence[Pair], name: str, model: str) -> dict[str, Any]:
    """Return the answer to a request for scores."""
    data = [
        {"index": index, "object": "score", "score": similarity(*pair)}
        for index, pair in enumerate(pairs)
    ]
    head = {"id": name, "object": "list", "created": int(time.time()), "model": model}
    return head | {"data": data, "usage": usage(pair_tokens(pairs), 0) | NO_DETAILS}


@dataclasses.dataclass(frozen=True, slots=True)
class RankRequest:
    """Documents to put in order. `top`: how many to return, 0 for all."""

    pairs: tuple[Pair, ...]
    documents: tuple[str, ...]
    top: int


def read_ranking(body: Mapping[str, Any], model: str, max_model_len: int) -> RankRequest:
    """Check a request to rank documents. Raises RefusedError."""
    for field in ("query", "documents"):
        if body.get(field) is None:
            raise missing(field, body)
    query = body["query"]
    if not isinstance(query, str):
        raise invalid("string_type", "query", "Input should be a valid string", query)
    documents = texts(body, "documents")
    top = whole(body, "top_n") or 0
    if top < 0:
        should = "Input should be greater than or equal to 0"
        raise invalid("greater_than_equal", "top_n", should, top)
    check_model(body, model)
    if not documents:
        raise refused("At least one text_pair element must be given")
    pairs = tuple((text_ids(query), text_ids(document)) for document in documents)
    _check_pairs(pairs, max_model_len)
    return RankRequest(pairs, documents, top)


def ranks_body(wanted: RankRequest, name: str, model: str) -> dict[str, Any]:
    """Return the answer: the nearest documents first."""
    scores = [similarity(*pair) for pair in wanted.pairs]
    results = [
        {
            "index": index,
            "document": {"text": wanted.documents[index], "multi_modal": None},
            "relevance_score": scores[index],
        }
        for index in sorted(range(len(scores)), key=lambda index: -scores[index])
    ]
    tokens = pair_tokens(wanted.pairs)
    counted = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"id": name, "model": model, "usage": counted, "results": results[: wanted.top or None]}
