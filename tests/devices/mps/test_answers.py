"""Answers of the control program are read strictly: text is never taken for an empty list."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.devices.mps import answers


@given(st.lists(st.integers(0, 4_194_304)))
def test_pids_are_read_back(pids: list[int]) -> None:
    assert answers.pids("\n".join(map(str, pids))) == tuple(pids)


@given(st.lists(st.integers(0, 99_999)), st.text(st.sampled_from("abcXYZ\u0663\u00b2"), min_size=1))
def test_any_word_makes_it_no_list(pids: list[int], word: str) -> None:
    assert answers.pids("\n".join([*map(str, pids), word])) is None


@pytest.mark.parametrize(
    ("text", "status", "clients"),
    [
        ("ACTIVE\n12\n13\n", "ACTIVE", (12, 13)),
        ("FAULT\n", "FAULT", ()),
        ("Server status: INITIALIZING\n", "INITIALIZING", ()),
        ("Server 12 does not exist\nServer 12 does not exist\n", "", ()),
    ],
)
def test_status_and_clients_come_together(text: str, status: str, clients: tuple[int, ...]) -> None:
    found = answers.server_answer(text)
    assert (found.status, found.clients) == (status, clients)


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("0\n", True),
        ("", True),
        ("CUDA_SUCCESS", True),
        ("CUDA_ERROR_INVALID_VALUE", False),
        ("807", False),
        ("Unknown command", False),
    ],
)
def test_only_success_is_success(text: str, ended: bool) -> None:
    assert answers.terminated(text) is ended


def test_a_fault_of_an_earlier_server_is_history() -> None:
    fatal = "[2026-01-01 Server 9] Client encountered a fatal GPU exception"
    assert answers.fatal_line(fatal) == fatal
    assert answers.fatal_line(f"{fatal}\n[2026-01-02 Server 10] Server has started") == ""


def test_the_line_that_says_most_is_shown() -> None:
    log = "Starting\nServer 95 exited with status 1\nAccepting connection..."
    assert answers.ailing_line(log) == "Server 95 exited with status 1"
    assert answers.ailing_line("Starting\nExit") == "Exit"
    assert answers.ailing_line("") == ""
