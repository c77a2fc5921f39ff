"""Counts the bytes of weights stored quantised, matrix by matrix, with scales and zero points.

The count is what vLLM holds once it has read the checkpoint. Sources: AutoGPTQ and AutoAWQ pack
weights into 32-bit words with one 16-bit scale and one packed zero point per group of inputs; GPTQ
with activation order also has a 32-bit group index per input. compressed-tensors (llm-compressor)
keeps a scale per tensor, channel or block, held in 32 bits, or per group, in 16. fp8 checkpoints
have one 32-bit scale per tensor or per block. bitsandbytes has one scale per 64 values, which is
itself quantised with double quantisation (Dettmers et al. 2023, section 3).
"""

import dataclasses
import fnmatch
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from partitiond.core.errors import SpecError
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.families.blueprint import Blueprint, Matrix, blocks
from partitiond.core.model.families.reading import Config, bad, flag, section, shown, texts, whole

SUPPORTED: Final = ("gptq", "awq", "compressed-tensors", "fp8", "bitsandbytes", "modelopt")
"""Values of `quant_method` that can be counted."""

_KEY: Final = "quantization_config"
MOST_STEPS: Final = 1e6
"""Of all patterns of a config, with one name: 216,000 for three ".*". Chosen: some 10 ms."""
_BNB_BLOCK: Final = 64
_BNB_DOUBLE_BLOCK: Final = 256

Rule = Callable[[Matrix], float | None]
"""Bytes of one copy of a matrix; None if the matrix is left as it is."""


def stored_quantised(
    architecture: Architecture, plan: Blueprint, quantisation: object, stored: int | None
) -> Architecture:
    """Return the architecture with its weights stored as `quantization_config` says.

    Args:
        stored: bytes of the weight files, which count where the method is not known; None if they
            are not at hand.

    Raises:
        SpecError: the method or one of its keys is not known; the message names it.
    """
    if not isinstance(quantisation, dict):
        raise bad(_KEY, "must be an object", quantisation)
    if _declares_fp8_cache(quantisation):
        architecture = dataclasses.replace(
            architecture, declared_kv_bytes=1.0, kv_bytes_per_value=1.0
        )
    try:
        rule = _rule(quantisation)
        sizes = [(matrix, rule(matrix)) for matrix in plan.matrices]
    except SpecError:
        if stored is None:
            raise
        return _as_stored(architecture, stored)
    taken = sum(matrix.weights for matrix, size in sizes if size is not None)
    total = sum(size * matrix.copies for matrix, size in sizes if size is not None)
    if not taken:
        return architecture
    return dataclasses.replace(
        architecture,
        quantised_parameters=int(taken),
        quantised_bytes_per_parameter=total / taken,
    )


def _as_stored(architecture: Architecture, stored: int) -> Architecture:
    """Return an architecture whose weights are quantised in a way that is not counted: they take
    what their files have.
    """
    uncounted = "How its weights are quantised is not counted: they are the size of its files."
    return dataclasses.replace(
        architecture,
        tower_parameters=0,
        quantised_parameters=architecture.parameters,
        quantised_bytes_per_parameter=stored / architecture.parameters,
        note=f"{architecture.note} {uncounted}".strip(),
    )


def _rule(quantisation: Config) -> Rule:
    method = _method(quantisation)
    if method not in _METHODS:
        raise SpecError(
            f"config key {_KEY}: quant_method {shown(method)} is not supported.",
            hint=f"Supported are {', '.join(SUPPORTED)}; any other where the weights' files are at "
            "hand, whose size is then taken.",
            facts={"key": _KEY, "quant_method": method},
        )
    return _METHODS[method](quantisation)


def _method(config: Config) -> str:
    """Return `quant_method`; ModelOpt's files have an algorithm in its place, or beside it."""
    method = str(config.get("quant_method"))
    algorithm = config.get("quant_algo") or (section(config, "quantization") or {}).get(
        "quant_algo"
    )
    return "modelopt" if algorithm or method.startswith("modelopt") else method


def _declares_fp8_cache(config: Config) -> bool:
    """Whether the checkpoint was made for a KV cache in fp8, in which vLLM then keeps it.

    Raises:
        SpecError: it was made for another one, which vLLM refuses or keeps in less (nvfp4).
    """
    parts = (section(config, "quantization") or {}, config)
    keys = ("kv_cache_scheme", "kv_cache_quant_algo")
    for found in (part[key] for key in keys for part in parts if part.get(key)):
        scheme = found if isinstance(found, dict) else {}
        fp8 = (scheme.get("num_bits"), scheme.get("type")) == (8, "float")
        if not fp8 and str(found).lower() != "fp8":
            raise bad(_KEY, f"asks for a KV cache of {shown(found)}, not fp8", found)
        return True
    return False


def _skips(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """Tell whether a module is left out by its name or by whole parts of it, as "mlp.gate".

    Only whole parts count, so that the router "mlp.gate" does not match "mlp.gate_proj".
    """
    return lambda name: any(f".{pattern}." in f".{name}." for pattern in patterns if pattern)


def _packed(config: Config, *, index_bytes: int, default_zero: bool) -> Callable[[Matrix], float]:
    """Return the size of weights in `bits`, with a 16-bit scale and a zero point per group of
    inputs.
    """
    bits = whole(config, "bits", "w_bit")
    if bits not in {2, 3, 4, 8}:
        raise bad(f"{_KEY}: bits", f"must be 2, 3, 4 or 8, got {bits}", bits)
    group = _group_size(config)
    zero = flag(config, "zero_point", default_zero)

    def size(matrix: Matrix) -> float:
        groups = blocks(matrix.inputs, group or matrix.inputs)
        scales = groups * matrix.outputs * (2 + (bits / 8 if zero else 0))
        return matrix.inputs * matrix.outputs * bits / 8 + scales + matrix.inputs * index_bytes

    return size


def _group_size(config: Config) -> int:
    """Return the number of inputs that share a scale; 0 if all of them do (-1, or null)."""
    value = config.get("group_size", config.get("q_group_size"))
    if value is None or value in (-1, 0):
        return 0
    return whole(config, "group_size", "q_group_size")


def _gptq(config: Config) -> Rule:
    ordered = flag(config, "desc_act", False)
    size = _packed(config, index_bytes=4 if ordered else 0, default_zero=True)
    head = flag(config, "lm_head", False)
    skipped = _dynamic_skips(config)
    listed = _skips(texts(config, "modules_to_not_convert") or ())
    only = _quantised_modules(config)

    def rule(matrix: Matrix) -> float | None:
        taken = matrix.quantisable or (head and matrix.name == "lm_head")
        if not taken or skipped(matrix.name) or listed(matrix.name) or not only(matrix.name):
            return None
        return size(matrix)

    return rule


def _quantised_modules(config: Config) -> Callable[[str], bool]:
    """Tell whether a module is among those that a checkpoint lists as quantised; all if it lists
    none. They are listed by name, or in groups of names.
    """
    key = "modules_in_block_to_quantize"
    groups = config.get(key) or []
    if not isinstance(groups, list):
        raise bad(f"{_KEY}: {key}", "must be a list", groups)
    named = [name for group in groups for name in (group if isinstance(group, list) else [group])]
    return _skips(texts({key: named}, key) or ()) if named else lambda _: True


def _dynamic_skips(config: Config) -> Callable[[str], bool]:
    """Read GPTQModel's `dynamic`: "-:PATTERN" leaves modules out; other widths are refused."""
    rules = section(config, "dynamic") or {}
    if any(not key.startswith("-:") for key in rules):
        raise bad(
            f"{_KEY}: dynamic",
            "changes the bits of some modules, which is not supported",
            hint="Use weights that are quantised alike throughout, or the 16-bit ones.",
        )
    return _patterns(key[2:] for key in rules)


def _patterns(texts: Iterable[str]) -> Callable[[str], bool]:
    """Match names from their start by the regular expressions of a config.

    Raises:
        SpecError: one is none, or they may take long: no thread runs while one is matched.
    """
    found, steps = [], 0.0
    for text in texts:
        steps += _steps(text)
        if steps > MOST_STEPS:
            raise bad(_KEY, f"holds {shown(text)}, which may take long to match", shown(text))
        try:
            found.append(re.compile(text))
        except (re.error, OverflowError, RecursionError) as error:
            raise bad(_KEY, f"holds {shown(text)}, which is no regular expression") from error
    return lambda name: any(pattern.match(name) for pattern in found)


def _steps(text: str) -> float:
    """Bound the ways in which a pattern is tried on a name of 60 letters; 1,000 to compile it."""
    repeats, choices = sum(map(text.count, "*+{")), text.count("|")
    if len(text) > 1000 or repeats > 9 or re.search(r"\)[*+{]", text):
        return math.inf
    left_out = len(re.findall(r"[^(*+]\?", text))
    return 1000.0 + 60.0**repeats * 2.0 ** min(left_out, 60) * (1.0 + choices) ** min(
        text.count("("), 9
    )


def _awq(config: Config) -> Rule:
    size = _packed(config, index_bytes=0, default_zero=True)
    skipped = _skips(texts(config, "modules_to_not_convert") or ())

    def rule(matrix: Matrix) -> float | None:
        return None if not matrix.quantisable or skipped(matrix.name) else size(matrix)

    return rule


def _fp8(config: Config) -> Rule:
    """Return one byte per weight; a 32-bit scale per block, or per tensor, and one for
    activations.
    """
    listed = (*(texts(config, "ignored_layers") or ()),)
    skipped = _skips((*listed, *(texts(config, "modules_to_not_convert") or ())))
    block = _block(config.get("weight_block_size"))
    static = config.get("activation_scheme") == "static"

    def rule(matrix: Matrix) -> float | None:
        if not matrix.quantisable or skipped(matrix.name):
            return None
        scales = _block_count(matrix, block) if block else 1 + static
        return matrix.inputs * matrix.outputs + 4 * scales

    return rule


def _block(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and all(type(v) is int and v > 0 for v in value):
        return value[0], value[1]
    raise bad(f"{_KEY}: weight_block_size", "must be two positive whole numbers", value)


def _block_count(matrix: Matrix, block: tuple[int, int]) -> int:
    return blocks(matrix.outputs, block[0]) * blocks(matrix.inputs, block[1])


def _bitsandbytes(config: Config) -> Rule:
    """NF4 or FP4 with a scale per 64 values, or int8 with a 32-bit scale per output."""
    skipped = _skips(texts(config, "llm_int8_skip_modules") or ())
    four = flag(config, "load_in_4bit", False)
    double = flag(config, "bnb_4bit_use_double_quant", False)
    if not four and not flag(config, "load_in_8bit", False):
        raise bad(_KEY, "sets neither load_in_4bit nor load_in_8bit")

    def rule(matrix: Matrix) -> float | None:
        if not matrix.quantisable or skipped(matrix.name):
            return None
        values = matrix.inputs * matrix.outputs
        if not four:
            return values + 4 * matrix.outputs
        scales = blocks(values, _BNB_BLOCK)
        per_scale = 1 + 4 / _BNB_DOUBLE_BLOCK if double else 4
        return math.ceil(values / 2 + scales * per_scale)

    return rule


def _modelopt(config: Config) -> Rule:
    """ModelOpt: fp8 with a 32-bit scale per tensor and one for activations, or NVFP4 with an fp8
    scale per 16 values.
    """
    inner = section(config, "quantization") or config
    algorithm = inner.get("quant_algo")
    if algorithm not in ("FP8", "NVFP4"):
        raise bad(
            f"{_KEY}: quant_algo",
            f"{shown(algorithm)} is not supported",
            algorithm,
            hint="Supported are FP8 and NVFP4; or use the model's 16-bit weights.",
        )
    excluded = (*(texts(inner, "exclude_modules") or ()), *(texts(inner, "ignore") or ()))
    bits_and_scales = (1.0, 0.0) if algorithm == "FP8" else (0.5, 1 / 16)

    def rule(matrix: Matrix) -> float | None:
        left_out = any(fnmatch.fnmatch(matrix.name, pattern) for pattern in excluded)
        if not matrix.quantisable or left_out or _skips(excluded)(matrix.name):
            return None
        return matrix.inputs * matrix.outputs * math.fsum(bits_and_scales) + 8

    return rule


# --- compressed-tensors ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Scheme:
    """How one group of modules is stored."""

    targets: Callable[[str], bool]
    size: Callable[[Matrix], float]


def _compressed_tensors(config: Config) -> Rule:
    """Size each module by the first group that targets it, unless the module is ignored."""
    ignored = _matcher(texts(config, "ignore") or ())
    groups = section(config, "config_groups")
    if not groups:
        raise bad(f"{_KEY}: config_groups", "is missing")
    schemes = [_scheme(name, group) for name, group in groups.items()]

    def rule(matrix: Matrix) -> float | None:
        names = _names(matrix)
        if any(map(ignored, names)):
            return None
        for scheme in schemes:
            if any(map(scheme.targets, names)):
                return scheme.size(matrix)
        return None

    return rule


def _names(matrix: Matrix) -> tuple[str, ...]:
    """Return names by which a target may call it: its own, and its class unless it is a mere
    parameter.
    """
    return (matrix.name, "Linear")


def _matcher(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """Match by full name, or by "re:" pattern from the start, as compressed-tensors does."""
    names = frozenset(patterns)
    matches = _patterns(text[3:] for text in patterns if text.startswith("re:"))
    return lambda name: name in names or matches(name)


def _scheme(name: str, group: object) -> _Scheme:
    key = f"{_KEY}: config_groups.{name}"
    if not isinstance(group, dict):
        raise bad(key, "must be an object", group)
    weights = section(group, "weights")
    if weights is None:
        raise bad(f"{key}.weights", "is missing")
    targets = texts(group, "targets") or ("Linear",)
    inputs = section(group, "input_activations")
    # NVFP4 says "local": scales per block are computed, and one per tensor is stored.
    static = inputs is not None and inputs.get("dynamic") is not True
    return _Scheme(_matcher(targets), _weight_size(key, weights, static_scale=static))


def _weight_size(key: str, weights: Config, *, static_scale: bool) -> Callable[[Matrix], float]:
    bits = whole(weights, "num_bits")
    if bits not in {4, 8}:
        raise bad(f"{key}.weights.num_bits", f"must be 4 or 8, got {bits}", bits)
    zero = 0.0 if flag(weights, "symmetric", True) else bits / 8
    strategy = str(weights.get("strategy") or ("group" if weights.get("group_size") else "tensor"))
    counts = _scale_counts(key, weights, strategy)
    # NVFP4 ("tensor_group") has an fp8 scale per 16 values, and a 32-bit one per tensor.
    scale_bytes = {"group": 2, "tensor_group": 1}.get(strategy, 4)

    def size(matrix: Matrix) -> float:
        scales = counts(matrix) * (scale_bytes + zero)
        per_tensor = 4 if strategy == "tensor_group" else 0
        activation = 4 if static_scale else 0
        return matrix.inputs * matrix.outputs * bits / 8 + scales + per_tensor + activation

    return size


def _scale_counts(key: str, weights: Config, strategy: str) -> Callable[[Matrix], int]:
    """Return the number of scales of one matrix."""
    match strategy:
        case "tensor":
            return lambda _: 1
        case "channel":
            return lambda matrix: matrix.outputs
        case "group" | "tensor_group":
            group = whole(weights, "group_size")
            return lambda matrix: matrix.outputs * blocks(matrix.inputs, group)
        case "block":
            block = _block(weights.get("block_structure")) or (128, 128)
            return lambda matrix: _block_count(matrix, block)
    raise bad(f"{key}.weights.strategy", f"{shown(strategy)} is not supported", strategy)


_METHODS: Final[Mapping[str, Callable[[Config], Rule]]] = {
    "gptq": _gptq,
    "awq": _awq,
    "compressed-tensors": _compressed_tensors,
    "fp8": _fp8,
    "bitsandbytes": _bitsandbytes,
    "modelopt": _modelopt,
}
