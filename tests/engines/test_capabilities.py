import itertools

import pytest

from partitiond.core.errors import EngineUnavailableError
from partitiond.engines.capabilities import TABLE, capabilities_of


@pytest.mark.parametrize("version", ["0.20.0", "0.22.1", "0.31.0", "0.32.0", "0.32.1+cpu"])
def test_supported_versions_have_an_entry(version: str) -> None:
    capabilities_of(version)


@pytest.mark.parametrize("version", ["0.8.5", "0.19.1", "0.33.0", "1.0.0"])
def test_other_versions_are_refused_unless_allowed(version: str) -> None:
    with pytest.raises(EngineUnavailableError, match="not known"):
        capabilities_of(version)
    assert capabilities_of(version, allow_unknown=True) in TABLE


def test_what_is_no_version_is_never_allowed() -> None:
    with pytest.raises(EngineUnavailableError):
        capabilities_of("dev", allow_unknown=True)


def test_the_ranges_follow_each_other_without_a_gap() -> None:
    for earlier, later in itertools.pairwise(TABLE):
        assert earlier.end == later.first


def test_only_new_versions_run_a_cpu_engine_in_one_process() -> None:
    assert not capabilities_of("0.22.1").cpu_in_one_process
    assert capabilities_of("0.32.0").cpu_in_one_process
