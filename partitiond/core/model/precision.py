"""Describes an architecture as an engine loads it: dtype, quantisation, KV cache precision."""

import dataclasses
from collections.abc import Mapping
from typing import Final

from partitiond.core.errors import SpecError
from partitiond.core.hardware.kinds import HardwareSpec
from partitiond.core.model.architecture import Architecture

BYTES_PER_VALUE: Final = {"bfloat16": 2.0, "float16": 2.0, "float32": 4.0}

KV_CACHE_DTYPES: Final = ("auto", "fp8")


@dataclasses.dataclass(frozen=True, slots=True)
class LoadQuantisation:
    """How an engine quantises 16-bit weights while it loads them.

    Attributes:
        bytes_per_parameter: of a quantised parameter, including its share of the scales.
        experts_only: only routed experts are quantised.
        fp8_arithmetic: the engine multiplies in fp8 if the hardware can.
    """

    bytes_per_parameter: float
    experts_only: bool = False
    fp8_arithmetic: bool = False


LOAD_QUANTISATIONS: Final[Mapping[str, LoadQuantisation]] = {
    "fp8": LoadQuantisation(1.0, fp8_arithmetic=True),
    "fp8_per_tensor": LoadQuantisation(1.0, fp8_arithmetic=True),
    # A 32-bit scale for each block of 128 x 128 values.
    "fp8_per_block": LoadQuantisation(1.0 + 4 / 128**2, fp8_arithmetic=True),
    # A 32-bit scale for each row of hundreds or thousands of values: negligible.
    "fp8_per_channel": LoadQuantisation(1.0, fp8_arithmetic=True),
    "int8_per_channel_weight_only": LoadQuantisation(1.0, experts_only=True),
    # The older name of the same.
    "experts_int8": LoadQuantisation(1.0, experts_only=True),
    # NF4 in blocks of 64 values with a 32-bit scale each.
    "bitsandbytes": LoadQuantisation(0.5 + 4 / 64),
}
"""Values of vLLM's `--quantization` for weights that are stored in 16 bits, in any supported
version; `engines.vllm.capabilities` knows which version has which value."""

QUANTIZATIONS: Final = ("", *LOAD_QUANTISATIONS)
"""The same names, and the empty one for weights that are loaded as they are stored."""


def with_dtype(architecture: Architecture, dtype: str) -> Architecture:
    """Return the architecture as loaded with the engine's dtype ("auto" keeps it)."""
    width = BYTES_PER_VALUE.get(dtype)
    if width is None:
        return architecture
    return dataclasses.replace(
        architecture,
        weight_bytes_per_parameter=width,
        kv_bytes_per_value=architecture.declared_kv_bytes or width,
    )


def with_quantization(architecture: Architecture, quantization: str) -> Architecture:
    """Return the architecture with weights quantised while loading ("" leaves them as they are).

    Matrices are quantised; embeddings, the output matrix, norms and biases keep their precision.
    Weights that are quantised on disk already stay as they are.

    Raises:
        SpecError: there is no such quantisation, or the weights are quantised already.
    """
    if not quantization:
        return architecture
    how = LOAD_QUANTISATIONS.get(quantization)
    if how is None:
        raise SpecError(
            f"the quantisation {quantization!r} is not known.",
            hint=f"Use {', '.join(LOAD_QUANTISATIONS)}, or none.",
        )
    if architecture.quantised_parameters:
        raise SpecError(
            f"these weights are quantised already, they cannot be loaded as {quantization}.",
            hint="Leave the quantisation out, or name the 16-bit model.",
        )
    return dataclasses.replace(
        architecture,
        quantised_parameters=(
            architecture.expert_parameters if how.experts_only else architecture.linear_parameters
        ),
        quantised_bytes_per_parameter=how.bytes_per_parameter,
    )


def with_kv_cache_dtype(architecture: Architecture, kv_cache_dtype: str) -> Architecture:
    """Return the architecture with its KV cache in this precision ("auto" is what the checkpoint
    declares, or that of the weights).

    Raises:
        SpecError: there is no such precision.
    """
    if kv_cache_dtype not in KV_CACHE_DTYPES:
        raise SpecError(
            f"the KV cache dtype {kv_cache_dtype!r} is not known.",
            hint=f"Use {' or '.join(KV_CACHE_DTYPES)}.",
        )
    if kv_cache_dtype == "auto":
        return architecture
    return dataclasses.replace(architecture, kv_bytes_per_value=1.0)


def as_loaded(
    architecture: Architecture,
    *,
    dtype: str = "auto",
    quantization: str = "",
    kv_cache_dtype: str = "auto",
) -> Architecture:
    """Apply all three. Raises SpecError as they do."""
    loaded = with_quantization(with_dtype(architecture, dtype), quantization)
    return with_kv_cache_dtype(loaded, kv_cache_dtype)


_NO_FLOAT16: Final = frozenset({"gemma2", "gemma3", "gemma3_text", "glm4"})
"""Families that vLLM does not run in float16, whose range their values exceed (vLLM 0.32,
`config/model.py`)."""


def engine_dtype(
    hardware: HardwareSpec, dtype: str, architecture: Architecture, quantization: str = ""
) -> str:
    """Return the dtype that an engine runs with on this hardware.

    "auto" is the type that the hardware computes natively, unless the model's weights demand
    another: quantised ones are multiplied in 16 bits by vLLM's kernels, and some families exceed
    the range of float16.

    Args:
        hardware: where the engine runs.
        dtype: as asked for.
        architecture: as stored, before the engine's options change it.
        quantization: that the engine applies to the weights while loading.
    """
    native = hardware.native_dtype
    if dtype != "auto":
        return dtype
    if native == "float32" and (quantization or architecture.quantised_parameters):
        return "bfloat16"
    if native == "float16" and architecture.family in _NO_FLOAT16:
        return "float32"
    return native


def require_dtype(hardware: HardwareSpec, dtype: str) -> None:
    """Raise SpecError unless engines can be asked for this dtype on this hardware."""
    if dtype == "bfloat16" and hardware.native_dtype == "float16":
        raise SpecError(
            f"{hardware.key} has no bfloat16.",
            hint="Use --dtype float16, or leave the dtype out.",
            facts={"hardware": hardware.key, "dtype": dtype},
        )
    if dtype not in {*BYTES_PER_VALUE, "auto"}:
        raise SpecError(
            f"dtype {dtype!r} is not known.", hint="Use bfloat16, float16, float32 or auto."
        )
