"""Ids are accepted as people type them, and hints use the words of the command line."""

import pytest

from partitiond.cli.ids import fitting, short_ids, with_id
from partitiond.core.errors import ConflictError, InputError, NotFoundError

JOBS = ("job-1", "job-12", "job-13", "job-2")


def look(given: str, there: tuple[str, ...], kind: str = "job") -> str:
    def exact(name: str) -> str:
        if name not in there:
            raise NotFoundError(f"there is no {kind} {name}.", facts={kind: name})
        return name

    return with_id(kind, given, exact, lambda: there)


KEYS = ("key-1a2b", "key-ff00")


def test_an_id_is_found_whole_without_its_word_or_by_a_beginning_that_it_alone_has() -> None:
    jobs = {"job-1": "job-1", "job-12": "job-12", "1": "job-1", "2": "job-2", "13": "job-13"}
    assert {given: look(given, JOBS) for given in jobs} == jobs
    assert look("key-1a", KEYS, "key") == look("1a2", KEYS, "key") == "key-1a2b"
    with pytest.raises(NotFoundError, match="no key 9"):
        look("9", KEYS, "key")
    for word in ("k", "key", "key-"):
        with pytest.raises(NotFoundError):
            look(word, KEYS[:1], "key")
    with pytest.raises(InputError, match="beginning of 2 key ids") as caught:
        look("a", ("key-a1", "key-a2", "key-b1"), "key")
    assert caught.value.hint == "Write more of it: key-a1, key-a2."
    with pytest.raises(InputError) as caught:
        look("x", tuple(f"key-x{n:02}" for n in range(20)), "key")
    assert caught.value.hint.endswith("key-x07 and 12 more.")

    def use(_: str) -> str:
        raise NotFoundError("there is no model x.", facts={"model": "x"})

    with pytest.raises(NotFoundError, match="no model x"):  # said as it is
        with_id("key", "key-1", use, lambda: ("key-1", "key-12"))


def test_short_ids_are_unique_among_those_shown_and_lead_back() -> None:
    ids = ("opt-125m-cpu-1-2025", "ant-cpu-1-160-16-2025", "ant-cpu-1-160-16-2026", "ant-cpu-2-8")
    short = short_ids({each: each.partition("-cpu")[0] for each in ids})
    assert short == {
        "opt-125m-cpu-1-2025": "opt-125m",
        "ant-cpu-1-160-16-2025": "ant-cpu-1-160-16-2025",
        "ant-cpu-1-160-16-2026": "ant-cpu-1-160-16-2026",
        "ant-cpu-2-8": "ant-cpu-2",
    }
    for each in ids:
        assert look(short[each], ids, "profile") == each
    assert short_ids({"a": "a", "a-b": "a"}) == {"a": "a", "a-b": "a-b"}


def test_hints_are_for_who_typed_a_command() -> None:
    taken = ConflictError("taken.", hint="Change it with PATCH, or so.", facts={"model": "ant"})
    assert "`partitiond models update ant`" in fitting(taken).hint
    assert "PATCH" not in fitting(taken).hint
    wrong = InputError("not valid.", hint="GET /openapi.json describes them all.")
    assert "openapi" not in fitting(wrong).hint
    for kind in ("model", "job", "key", "profile"):
        hint = fitting(
            NotFoundError("none.", hint="Check the name; lists are.", facts={kind: "x"})
        ).hint
        assert hint.startswith("`partitiond ")
    own = NotFoundError("none.", hint="See `partitiond models`.", facts={"profile": "x"})
    assert fitting(own).hint == "See `partitiond models`."
