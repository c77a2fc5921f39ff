"""Answers of the control program are read strictly: text is never taken for an empty list."""

from hypothesis import given
from hypothesis import strategies as st

from partitiond.devices.mps import answers


@given(st.lists(st.integers(0, 4_194_304)), st.text(st.sampled_from("abcXYZ\u0663\u00b2")))
def test_pids_are_read_back_and_any_word_makes_it_no_list(pids: list[int], word: str) -> None:
    lines = [*map(str, pids), *filter(None, [word])]
    assert answers.pids("\n".join(lines)) == (None if word else tuple(pids))


def test_status_and_clients_come_together() -> None:
    for text, status, clients in (
        ("ACTIVE\n12\n13\n", "ACTIVE", (12, 13)),
        ("FAULT\n", "FAULT", ()),
        ("Server status: INITIALIZING\n", "INITIALIZING", ()),
        ("Server 12 does not exist\nServer 12 does not exist\n", "", ()),
    ):
        found = answers.server_answer(text)
        assert (found.status, found.clients) == (status, clients)


def test_only_success_is_success() -> None:
    for text in ("0\n", "", "CUDA_SUCCESS"):
        assert answers.terminated(text), text
    for text in ("CUDA_ERROR_INVALID_VALUE", "807", "Unknown command"):
        assert not answers.terminated(text), text


def test_of_a_log_the_line_is_shown_that_says_most_and_an_earlier_server_is_history() -> None:
    fatal = "[2026-01-01 Server 9] Client encountered a fatal GPU exception"
    assert answers.fatal_line(fatal) == fatal
    assert answers.fatal_line(f"{fatal}\n[2026-01-02 Server 10] Server has started") == ""
    log = "Starting\nServer 95 exited with status 1\nAccepting connection..."
    assert answers.ailing_line(log) == "Server 95 exited with status 1"
    assert answers.ailing_line("Starting\nExit") == "Exit"
    assert answers.ailing_line("") == ""
