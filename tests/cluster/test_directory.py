"""Who is let in by Ray's directory without the token, and what follows from it."""

from pathlib import Path

import pytest

from partitiond.cluster.ask_directory import answer_of, refusal_of, without_token
from partitiond.cluster.bridge import Unreachable, why_open
from partitiond.cluster.directory import DirectoryAnswer, ask_directory, refuse_open
from partitiond.cluster.ray_node import RayNode, client_environment
from partitiond.core.errors import SettingsError
from tests.cluster.ray_fixtures import free_ports


class AuthenticationError(Exception):
    """As Ray calls it."""


def test_what_the_program_prints_is_read() -> None:
    versions = b'{"ray_version": "2.60.0", "python_version": "3.12.1", "ray_init_cluster": false}'
    found = DirectoryAnswer(**answer_of(versions))
    assert found == DirectoryAnswer(answers=True, ray="2.60.0", python="3.12.1")
    assert DirectoryAnswer(**answer_of(None)) == DirectoryAnswer(answers=True)


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (AuthenticationError("no"), True),
        (RuntimeError("RPC error: InvalidAuthToken: missing"), True),
        (RuntimeError("Unauthenticated: no"), True),
        (TimeoutError("Timed out while waiting for GCS"), False),
        (RuntimeError("RPC error: "), False),
        (RuntimeError(), False),
    ],
)
def test_only_a_refusal_for_the_token_is_one(error: Exception, refused: bool) -> None:
    found = DirectoryAnswer(**refusal_of(error))
    assert (found.refused, bool(found.problem)) == (refused, not refused)
    assert not found.answers


def test_a_ray_is_joined_only_if_it_refused() -> None:
    """And a start is refused by an answer alone."""
    assert why_open({"refused": True}, "h:1") == ""
    assert "asks for no token" in why_open({"answers": True, "ray": "2.60.0"}, "h:1")
    for nothing in ({}, {"problem": "down"}, {"refused": False, "answers": False}):
        with pytest.raises(Unreachable):
            why_open(nothing, "h:1")
    refuse_open(DirectoryAnswer(refused=True), "h:1")
    refuse_open(DirectoryAnswer(problem="down"), "h:1")
    with pytest.raises(SettingsError, match="h:1 asks for no token") as found:
        refuse_open(DirectoryAnswer(answers=True), "h:1")
    assert "RAY_AUTH_MODE=token" in found.value.hint


def test_a_stranger_has_the_certificate_and_no_token(tmp_path: Path) -> None:
    given = {"PATH": "/bin", "RAY_AUTH_TOKEN": "secret"}
    own = client_environment(tmp_path / "token", tmp_path, given)
    found = without_token({**own, "RAY_AUTH_TOKEN": "secret"})
    assert {n: t for n, t in found.items() if "AUTH" in n} == {"RAY_AUTH_MODE": "disabled"}
    assert {*own} - {*found} == {"RAY_AUTH_TOKEN_PATH"}


def test_a_directory_that_is_not_there_is_no_answer_at_once(tmp_path: Path) -> None:
    nowhere, (port,) = Path("/nowhere/python"), free_ports(1)
    node = RayNode(nowhere, "a", "127.0.0.1", "", port, tmp_path, tmp_path, tmp_path)
    found = ask_directory(node, with_token=False)
    assert found == DirectoryAnswer(problem="Connection refused")
