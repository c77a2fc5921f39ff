"""The simulated engine gives the right answers without a process: tokens, texts, vectors.

What it refuses is in `tests/e2e/conformance_cases.py`, which also names what vLLM alone serves.
"""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.simulated.engine import completions, pooling, tokens
from partitiond.simulated.engine.generation import Generation
from partitiond.simulated.engine.refusals import RefusedError
from partitiond.simulated.engine.requests import read_generation

MODEL = "tiny"


def completion(**body: Any) -> Generation:
    return read_generation({"prompt": "Hi", **body}, chat=False, model=MODEL, max_model_len=512)


def test_with_a_parser_a_chat_calls_a_tool_until_it_has_its_result() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]

    def answered(role: str = "user", **body: Any) -> tuple[dict[str, Any], list[Any]]:
        chat = {"messages": [{"role": role, "content": "Hi"}], "max_tokens": 3, **body}
        made = read_generation(chat, chat=True, model=MODEL, max_model_len=512, calls_tools=True)
        reply = completions.Reply(True, "chatcmpl-1", 0, MODEL, made)
        chunks = [reply.chunk(0, at)["choices"][0] for at in range(made.output_tokens)]
        return reply.whole()["choices"][0], chunks

    whole, chunks = answered(tools=tools)
    (call,) = whole["message"]["tool_calls"]
    assert (call["function"], whole["finish_reason"]) == (
        {"name": "f", "arguments": "{}"},
        "tool_calls",
    )
    assert chunks[0]["delta"] == {"tool_calls": [{"index": 0, **call}]}
    assert (chunks[-1]["delta"], chunks[-1]["finish_reason"]) == ({}, "tool_calls")
    named, _ = answered(tools=tools, tool_choice=tools[1])
    assert named["message"]["tool_calls"][0]["function"]["name"] == "g"
    for words, _ in (
        answered(), answered(tools=tools, tool_choice="none"), answered("tool", tools=tools),
    ):  # fmt: skip
        assert words["message"]["content"]
        assert "tool_calls" not in words["message"]


class TestTokens:
    @given(st.text())
    def test_every_text_comes_back(self, text: str) -> None:
        ids = tokens.encode(text)
        assert tokens.decode(ids) == text
        assert all(0 <= item < 2**53 for item in ids)
        assert len(tokens.encode("a" * 400)) == 100, "four characters of English a token"

    @given(st.lists(st.integers(0, 2**63 - 1)))
    def test_every_id_is_some_text(self, ids: list[int]) -> None:
        tokens.decode(ids).encode()


class TestAnswers:
    def test_the_same_prompt_has_the_same_answer_and_others_have_others(self) -> None:
        text = completion(max_tokens=8, ignore_eos=True).answers[0].text
        assert completion(max_tokens=8, ignore_eos=True).answers[0].text == text
        other = completion(prompt="Ho", max_tokens=8, ignore_eos=True).answers[0].text
        assert other != text
        generation = completion(prompt=["A", "B"], n=2, max_tokens=3)
        prompts = [tokens.decode(generation.prompt_of(index)) for index in range(4)]
        assert prompts == ["A", "A", "B", "B"]
        assert len({answer.text for answer in generation.answers[:2]}) == 2
        cut = completion(prompt=[5] * 510, max_tokens=100, ignore_eos=True)
        assert cut.output_tokens == 2, "at the context"

    @given(st.integers(0, 40), st.integers(1, 12), st.booleans())
    def test_a_stop_text_ends_the_answer_before_it(self, at: int, size: int, kept: bool) -> None:
        whole_text = completion(max_tokens=12, ignore_eos=True).answers[0].text
        stop = whole_text[at : at + size] or "never"
        body = {"max_tokens": 12, "ignore_eos": True, "stop": [stop, "never"]}
        answer = completion(**body, include_stop_str_in_output=kept).answers[0]
        before = whole_text.partition(stop)[0]
        if stop == "never":
            assert answer.text == whole_text
            assert answer.finish_reason == "length"
        else:
            assert answer.text == before + (stop if kept else "")
            assert (answer.finish_reason, answer.stop_reason) == ("stop", stop)


class TestPooling:
    def test_texts_that_share_tokens_are_nearer_and_ranked_higher(self) -> None:
        query = tokens.encode("fast small models")
        near, far = tokens.encode("fast small engines"), tokens.encode("unrelated")
        assert pooling.similarity(query, near) > pooling.similarity(query, far)
        assert math.isclose(math.hypot(*pooling.vector_of(query)), 1.0)
        body = {"query": "small models", "documents": ["far away", "small models", "small"]}
        wanted = pooling.read_ranking(body | {"top_n": 2}, MODEL, 512)
        results = pooling.ranks_body(wanted, "score-1", MODEL)["results"]
        assert [result["index"] for result in results] == [1, 2]
        for left, right in ((["a", "b"], ["c"]), ("a", []), ("a", None)):
            with pytest.raises(RefusedError):
                pooling.read_pairs({"text_1": left, "text_2": right}, MODEL, 512)


def test_log_probabilities_of_whole_answers_cover_each_token() -> None:
    generation = completion(logprobs=2, max_tokens=4, ignore_eos=True)
    reply = completions.Reply(False, "cmpl-1", 0, MODEL, generation)
    told = reply.whole()["choices"][0]["logprobs"]
    assert told["tokens"] == list(generation.answers[0].pieces)
    assert told["text_offset"][0] == 0
    assert all(len(tops) == 2 for tops in told["top_logprobs"])
