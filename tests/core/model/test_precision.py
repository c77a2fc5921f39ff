"""The precision of weights and cache after loading follows the engine's options."""

import dataclasses
import typing

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.hardware.cpus import cpu_hardware
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model import precision
from partitiond.core.model.precision import (
    LOAD_QUANTISATIONS,
    engine_dtype,
    require_dtype,
    with_quantization,
)
from partitiond.core.model.spec import EngineOptions
from partitiond.core.performance.roofline import rates
from partitiond.core.units import GIB
from partitiond.fleet.parts import Quantization
from partitiond.models.catalog import CATALOG

OPT = CATALOG["opt-1.3b"].architecture


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("fp8", 1.0),
        ("fp8_per_tensor", 1.0),
        ("fp8_per_block", 1.000244140625),
        ("fp8_per_channel", 1.0),
        ("bitsandbytes", 0.5625),
    ],
)
def test_matrices_shrink_and_embeddings_do_not(name: str, width: float) -> None:
    found = with_quantization(OPT, name)
    kept = OPT.parameters - OPT.linear_parameters
    assert found.weights_bytes == pytest.approx(2 * kept + width * OPT.linear_parameters, rel=1e-6)
    assert found.kv_bytes_per_token == OPT.kv_bytes_per_token


@pytest.mark.parametrize("name", ["experts_int8", "int8_per_channel_weight_only"])
def test_ways_for_experts_quantise_nothing_else(name: str) -> None:
    assert precision.as_loaded(OPT) == OPT, "nothing is asked"
    assert with_quantization(OPT, name).weights_bytes == OPT.weights_bytes
    sparse = next(e.architecture for e in CATALOG.values() if e.architecture.expert_parameters)
    found = with_quantization(sparse, name)
    assert found.weights_bytes == sparse.weights_bytes - sparse.expert_parameters


def test_the_api_takes_no_other_words_than_the_core() -> None:
    assert set(typing.get_args(Quantization)) == set(precision.QUANTIZATIONS)
    with pytest.raises(SpecError, match="fp8_per_block"):
        EngineOptions(quantization="int3")


def test_fp8_arithmetic_counts_where_the_hardware_has_it() -> None:
    whole = PartitionSize(SharingMode.WHOLE, 1, 100)
    for name, how in LOAD_QUANTISATIONS.items():
        faster = rates(HARDWARE["h100-80gb"], whole, quantization=name)
        plain = rates(HARDWARE["h100-80gb"], whole)
        assert (faster != plain) is how.fp8_arithmetic, name


def test_what_is_unknown_or_quantised_already_is_refused() -> None:
    stored = dataclasses.replace(OPT, quantised_parameters=10, quantised_bytes_per_parameter=0.5)
    with pytest.raises(SpecError, match="quantised already"):
        with_quantization(stored, "fp8")
    with pytest.raises(SpecError, match="int3"):
        with_quantization(OPT, "int3")
    with pytest.raises(SpecError, match="fp4"):
        precision.with_kv_cache_dtype(OPT, "fp4")
    with pytest.raises(SpecError, match="float8"):
        require_dtype(HARDWARE["a100-40gb"], "float8")
    with pytest.raises(SpecError, match="no bfloat16"):
        require_dtype(HARDWARE["t4-16gb"], "bfloat16")


def test_the_cache_follows_the_dtype() -> None:
    wide = precision.with_dtype(OPT, "float32")
    assert wide.kv_bytes_per_token == 2 * OPT.kv_bytes_per_token
    assert (
        precision.with_kv_cache_dtype(wide, "fp8").kv_bytes_per_token == OPT.kv_bytes_per_token // 2
    )


def test_auto_is_what_the_device_computes_natively_unless_the_weights_demand_another() -> None:
    a100, t4 = HARDWARE["a100-40gb"], HARDWARE["t4-16gb"]
    emulating = cpu_hardware("cpu-x", 2, 8 * GIB, "float32")
    for hardware, native in ((a100, "bfloat16"), (t4, "float16"), (emulating, "float32")):
        assert engine_dtype(hardware, "auto", OPT) == native
        for asked in ("bfloat16", "float16", "float32"):
            assert engine_dtype(hardware, asked, OPT) == asked
    assert engine_dtype(emulating, "auto", OPT, "fp8") == "bfloat16"
    stored = dataclasses.replace(OPT, quantised_parameters=10, quantised_bytes_per_parameter=0.5)
    assert engine_dtype(emulating, "auto", stored) == "bfloat16"
    assert engine_dtype(t4, "auto", stored) == "float16"
    gemma = dataclasses.replace(OPT, family="gemma2")
    assert engine_dtype(t4, "auto", gemma) == "float32"
    assert engine_dtype(a100, "auto", gemma) == "bfloat16"
