import itertools

import pytest

from partitiond.core.errors import EngineUnavailableError, SpecError
from partitiond.core.model.precision import LOAD_QUANTISATIONS
from partitiond.engines.vllm import capabilities
from partitiond.engines.vllm.capabilities import TABLE, capabilities_of, versions_with


def test_supported_versions_have_an_entry_and_others_are_refused_unless_allowed() -> None:
    for version in ("0.24.0", "0.26.0", "0.31.0", "0.32.0", "0.32.1+cpu"):
        capabilities_of(version)
    for version in ("0.8.5", "0.23.1", "0.33.0", "1.0.0"):
        with pytest.raises(EngineUnavailableError, match="not known"):
            capabilities_of(version)
        assert capabilities_of(version, allow_unknown=True) in TABLE
    with pytest.raises(EngineUnavailableError):
        capabilities_of("dev", allow_unknown=True)


def test_only_new_versions_run_a_cpu_engine_in_one_process() -> None:
    assert not capabilities_of("0.31.0").cpu_in_one_process
    assert capabilities_of("0.32.0").cpu_in_one_process


def test_versions_differ_in_how_they_quantise_while_loading() -> None:
    for version, quantization, has in (
        ("0.24.0", "fp8_per_channel", True),
        ("0.27.1", "bitsandbytes", True),
        ("0.28.0", "bitsandbytes", False),
        ("0.32.0", "experts_int8", True),
        ("0.24.0", "", True),
    ):
        found = capabilities_of(version)
        if has:
            capabilities.require_quantization(found, quantization)
            continue
        with pytest.raises(SpecError) as caught:
            capabilities.require_quantization(found, quantization)
        assert versions_with(quantization) in caught.value.message
        assert "fp8_per_tensor" in caught.value.hint
    assert versions_with("bitsandbytes") == "0.24 to before 0.28"
    assert versions_with("fp8_per_channel") == "0.24 to before 0.33"
    assert versions_with("int3") == ""


def test_ranges_follow_without_a_gap_and_every_way_of_quantising_exists_in_some() -> None:
    for earlier, later in itertools.pairwise(TABLE):
        assert earlier.end == later.first
    assert set().union(*(entry.quantizations for entry in TABLE)) == set(LOAD_QUANTISATIONS)
