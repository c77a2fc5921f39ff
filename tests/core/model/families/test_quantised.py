"""Bytes of quantised weights equal the sum over a checkpoint's contents."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import SpecError
from partitiond.core.model.families import architecture_from_config
from partitiond.core.model.families.unlisted import STORED_BYTES
from partitiond.core.model.precision import as_loaded
from tests.core.model.families.configs import PUBLIC, config_of

H, INNER, KEYS, LAYERS, VOCAB = 512, 1024, 128, 3, 1000
CONFIG = config_of("qwen2", H, INNER, LAYERS, 8, 2, VOCAB, tie_word_embeddings=True)
SHAPES = [(H, H), (H, KEYS), (H, KEYS), (H, H), (H, INNER), (H, INNER), (INNER, H)]
"""Inputs and outputs of the seven matrices of a layer."""
PLAIN = VOCAB * H + LAYERS * (H + 2 * KEYS + 2 * H) + H
"""Embeddings, biases of queries, keys and values, norms."""


def weights_of(quantisation: dict[str, Any], config: dict[str, Any] | None = None) -> int:
    quantised = {**(config or CONFIG), "quantization_config": quantisation}
    return architecture_from_config(quantised).weights_bytes


def stored(method: str, **more: Any) -> dict[str, Any]:
    return {"quant_method": method, **more}


def compressed(weights: dict[str, Any], **more: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    groups = {"config_groups": {"group_0": group}, "ignore": ["lm_head"]}
    return stored("compressed-tensors", **{**groups, **more})


AWQ = stored("awq", bits=4, group_size=128)
BLOCKS = stored("fp8", weight_block_size=[128, 128])
INT8 = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
NF4 = stored("bitsandbytes", load_in_4bit=True)


def packed(inputs: int, outputs: int, bits: int, group: int, index_bytes: int = 0) -> float:
    """Packed weights, zeros, scales, and with an index the order of the inputs."""
    groups = inputs // group
    words = inputs * bits / 32 * outputs * 4
    return words + groups * outputs * (bits / 8 + 2) + inputs * index_bytes


def gptq(bits: int, group: int, order: bool) -> dict[str, Any]:
    return stored("gptq", bits=bits, group_size=group, desc_act=order)


@pytest.mark.parametrize(
    ("quantisation", "matrices"),
    [
        *[(gptq(bits, group, bool(index)), [packed(i, o, bits, group, index) for i, o in SHAPES])
          for bits in (4, 8) for group in (32, 128) for index in (0, 4)],
        ({**AWQ, "zero_point": True}, [packed(i, o, 4, 128) for i, o in SHAPES]),
        # One scale for all inputs.
        (stored("awq", bits=4, group_size=-1, zero_point=False),
         [i * o // 2 + 2 * o for i, o in SHAPES]),
        (BLOCKS, [i * o + -(-i // 128) * -(-o // 128) * 4 for i, o in SHAPES]),
        (stored("fp8", activation_scheme="dynamic"), [i * o + 4 for i, o in SHAPES]),
        (compressed(INT8), [i * o + 4 * o for i, o in SHAPES]),
        (compressed(INT4), [i * o // 2 + 2 * o * (i // 128) for i, o in SHAPES]),
        (NF4, [i * o // 64 * (32 + 4) for i, o in SHAPES]),
        ({**NF4, "bnb_4bit_use_double_quant": True},
         [i * o / 64 * (32 + 1 + 4 / 256) for i, o in SHAPES]),
        (stored("bitsandbytes", load_in_8bit=True), [i * o + 4 * o for i, o in SHAPES]),
    ],
)  # fmt: skip
def test_bytes_are_the_sum_over_a_checkpoints_contents(
    quantisation: dict[str, Any], matrices: list[float]
) -> None:
    expected = sum(matrices) * LAYERS + 2 * PLAIN
    assert weights_of(quantisation) == pytest.approx(expected, rel=0, abs=30)
    if "bnb_4bit_use_double_quant" not in quantisation:
        assert weights_of(quantisation) == int(expected)


def test_modules_that_are_left_out_keep_16_bits() -> None:
    """By name or by pattern, and no others along with them."""
    without = {**AWQ, "modules_to_not_convert": ["mlp.down_proj"]}
    gained = LAYERS * (INNER * H * 2 - (INNER * H // 2 + INNER // 128 * H * (2 + 0.5)))
    assert weights_of(without) - weights_of(AWQ) == gained
    router = {**BLOCKS, "modules_to_not_convert": ["lm_head", "model.layers.0.mlp.gate"]}
    assert weights_of(router) == weights_of(BLOCKS)
    one = INNER * H - 4 * H
    for ignored, more in (
        ("model.layers.1.mlp.down_proj", one),
        (r"re:.*down_proj$", LAYERS * one),
    ):
        found = weights_of(compressed(INT8, ignore=["lm_head", ignored]))
        assert found - weights_of(compressed(INT8)) == more
    untied = {**CONFIG, "tie_word_embeddings": False}
    taken = weights_of(compressed(INT8, ignore=[]), untied)
    assert weights_of(compressed(INT8), untied) - taken == VOCAB * H - 4 * VOCAB


FP8_CACHE = {"num_bits": 8, "type": "float", "dynamic": False}


@pytest.mark.parametrize(
    ("quantisation", "matrices", "kv_bytes"),
    [
        # hf_quant_config.json of ModelOpt to 0.29, then the same inside config.json.
        ({"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}, 1.0, 1.0),
        ({"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None}}, 1.0, 2.0),
        (stored("modelopt", quant_algo="NVFP4", kv_cache_scheme=FP8_CACHE), 0.5625, 1.0),
        ({"quant_algo": "FP8", "ignore": ["lm_head"]}, 1.0, 2.0),
        (compressed(INT8, kv_cache_scheme=FP8_CACHE), None, 1.0),
    ],
)
def test_modelopt_and_a_declared_cache_are_counted_as_the_engine_holds_them(
    quantisation: dict[str, Any], matrices: float | None, kv_bytes: float
) -> None:
    found = architecture_from_config({**CONFIG, "quantization_config": quantisation})
    assert found.kv_bytes_per_value == kv_bytes
    assert as_loaded(found, dtype="bfloat16").kv_bytes_per_value == kv_bytes
    assert as_loaded(found, dtype="float32").kv_bytes_per_value == (1.0 if kv_bytes == 1 else 4.0)
    if matrices is not None:
        values = LAYERS * sum(i * o for i, o in SHAPES)
        assert found.weights_bytes == 2 * PLAIN + values * matrices + 8 * LAYERS * len(SHAPES)


def test_modelopt_leaves_modules_out_by_pattern_and_refuses_other_algorithms() -> None:
    whole = weights_of(stored("modelopt", quant_algo="FP8"))
    less = weights_of(stored("modelopt", quant_algo="FP8", exclude_modules=["*.0.mlp*"]))
    assert less - whole == 3 * H * INNER - 3 * 8
    with pytest.raises(SpecError, match="W4A8_AWQ"):
        weights_of(stored("modelopt", quant_algo="W4A8_AWQ"))
    for cache in ({"num_bits": 8, "type": "int"}, {"num_bits": 4, "type": "float"}, "NVFP4"):
        with pytest.raises(SpecError, match="KV cache"):
            weights_of(stored("modelopt", quant_algo="FP8", kv_cache_scheme=cache))


def test_gptq_rules_leave_modules_out_and_other_widths_are_refused() -> None:
    usual = stored("gptq", bits=4, group_size=128)
    rule = {**usual, "dynamic": {r"-:.*layers\.0\..*": {}}}
    assert weights_of(rule) > weights_of(usual)
    with pytest.raises(SpecError, match="dynamic"):
        weights_of({**usual, "dynamic": {r"+:.*": {"bits": 8}}})


def test_gptq_quantises_the_modules_that_it_lists_or_all() -> None:
    usual = stored("gptq", bits=4, group_size=128)
    empty: tuple[Any, ...] = (None, [], [[]])
    for nothing in empty:
        assert weights_of({**usual, "modules_in_block_to_quantize": nothing}) == weights_of(usual)
    listed = ["self_attn.q_proj", "mlp.down_proj"]
    some = weights_of({**usual, "modules_in_block_to_quantize": listed})
    assert weights_of(usual) < some < weights_of({**usual, "modules_in_block_to_quantize": ["x"]})
    assert weights_of({**usual, "modules_in_block_to_quantize": [[one] for one in listed]}) == some
    for odd in ("q_proj", [1], [[None]]):
        with pytest.raises(SpecError, match="modules_in_block"):
            weights_of({**usual, "modules_in_block_to_quantize": odd})


def test_activations_quantised_as_they_come_by_block_store_a_scale_per_tensor() -> None:
    scheme = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}

    def group(dynamic: object) -> dict[str, Any]:
        inputs = {**scheme, "dynamic": dynamic}
        return {"targets": ["Linear"], "weights": scheme, "input_activations": inputs}

    def size(dynamic: object) -> int:
        return weights_of(stored("compressed-tensors", config_groups={"group_0": group(dynamic)}))

    assert size("local") == size(False) == size(True) + 4 * len(SHAPES) * LAYERS


def test_a_method_that_is_not_counted_takes_the_size_of_the_files_and_a_cache_is_refused() -> None:
    config = {**PUBLIC["llama-2-7b"], STORED_BYTES: 4_000_000_000}
    counted = architecture_from_config(PUBLIC["llama-2-7b"])
    for quantisation in (stored("mxfp4"), stored("auto-round", bits=4)):
        found = architecture_from_config({**config, "quantization_config": quantisation})
        assert found.weights_bytes == 4_000_000_000
        assert found.kv_bytes_per_token == counted.kv_bytes_per_token
        assert "not counted" in found.note
    odd = stored("mxfp4", kv_cache_scheme={"num_bits": 4, "type": "float"})
    with pytest.raises(SpecError, match="KV cache"):
        architecture_from_config({**config, "quantization_config": odd})


def test_patterns_that_models_have_are_read_and_those_that_may_take_long_are_refused() -> None:
    def leaving_out(pattern: str) -> float:
        scheme = {"targets": ["Linear"], "weights": {"num_bits": 8}}
        groups = {"ignore": [f"re:{pattern}"], "config_groups": {"group_0": scheme}}
        return weights_of(stored("compressed-tensors", **groups))

    for pattern in (
        r".*\.0\..*mlp.*",
        r"(?!.*self_attn).*\.0\.",
        r".*\.0\.mlp\.(?:gate|up|down)_proj",
    ):
        assert leaving_out(pattern) > leaving_out("lm_head")
    for pattern in (r"(.*)*x", r".*.*.*.*x", r"(a{2}){30}", "a?" * 30, "(.|.)" * 20, "a" * 1001):
        with pytest.raises(SpecError, match="may take long"):
            leaving_out(pattern)
    with pytest.raises(SpecError, match="regular expression"):
        leaving_out("(")


def test_experts_are_quantised_and_routers_are_not() -> None:
    mixtral = PUBLIC["mixtral-8x7b"]
    architecture = architecture_from_config({**mixtral, "quantization_config": AWQ})
    routers = 32 * 4096 * 8
    attention = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024)
    assert architecture.quantised_parameters == attention + architecture.expert_parameters
    left = architecture.parameters - architecture.quantised_parameters
    assert left == routers + 2 * 32000 * 4096 + (2 * 32 + 1) * 4096


@pytest.mark.parametrize(
    "quantisation",
    [
        stored("aqlm"),
        stored("mxfp4"),
        stored("gptq"),
        stored("gptq", bits=5),
        stored("awq", bits="4"),
        {**AWQ, "group_size": 0.5},
        {**AWQ, "modules_to_not_convert": "lm_head"},
        stored("bitsandbytes"),
        stored("fp8", weight_block_size=[0, 128]),
        stored("compressed-tensors"),
        compressed({"num_bits": 6}),
        compressed({**INT8, "strategy": "odd"}),
        compressed(INT8, ignore=["re:("]),
        "int4",
    ],
)
def test_what_cannot_be_counted_is_refused(quantisation: Any) -> None:
    with pytest.raises(SpecError, match="config key") as caught:
        weights_of(quantisation)
    assert caught.value.hint


@given(st.sampled_from([2, 4, 8]), st.sampled_from([32, 64, 128]), st.booleans())
def test_fewer_bits_are_never_more_bytes(bits: int, group: int, tied: bool) -> None:
    config = {**CONFIG, "tie_word_embeddings": tied}
    plain = architecture_from_config(config)
    quantised = architecture_from_config(
        {**config, "quantization_config": stored("gptq", bits=bits, group_size=group)}
    )
    assert quantised.parameters == plain.parameters
    assert quantised.quantised_parameters == plain.linear_parameters
    assert quantised.weights_bytes < plain.weights_bytes
