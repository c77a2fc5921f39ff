"""Only a lost or refused host is forgotten, and each refusal says what to do."""

import dataclasses

import pytest

from partitiond.core.errors import ConflictError, NotFoundError
from partitiond.core.hardware.host_state import HostState, host_to_forget
from tests.hosts.fleet import FINE, HEAD, LOST, NEVER


def test_a_lost_or_refused_host_may_be_forgotten() -> None:
    assert host_to_forget((HEAD, FINE, LOST), "gpu-2") is LOST
    assert host_to_forget((HEAD, NEVER), "gpu-3") is NEVER


def test_a_host_that_is_none_is_not_found_and_those_there_are_named() -> None:
    with pytest.raises(NotFoundError) as refused:
        host_to_forget((HEAD, FINE), "gpu-2")
    assert refused.value.hint == "Hosts of the fleet: head, gpu-1."


@pytest.mark.parametrize("state", list(HostState))
def test_a_host_that_may_run_engines_for_us_is_not_forgotten_nor_is_the_own(
    state: HostState,
) -> None:
    with pytest.raises(ConflictError):
        host_to_forget((dataclasses.replace(HEAD, state=state),), "head")
    if state in (HostState.FINE, HostState.LATE, HostState.SILENT):
        with pytest.raises(ConflictError) as refused:
            host_to_forget((HEAD, dataclasses.replace(FINE, state=state)), "gpu-1")
        assert state.value in refused.value.message
        assert refused.value.hint


def test_a_note_names_the_host_once() -> None:
    assert HEAD.note == ""
    assert LOST.note == f"gpu-2 is lost: {LOST.reason}"
    named = dataclasses.replace(LOST, reason="the host gpu-2 is lost.")
    assert named.note == "the host gpu-2 is lost."
    assert dataclasses.replace(LOST, reason="").note == "gpu-2 is lost: no reason is given."
