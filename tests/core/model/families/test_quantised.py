"""Bytes of quantised weights equal the sum over a checkpoint's contents."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import SpecError
from partitiond.core.model.families import architecture_from_config
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


def gptq(bits: int, group: int, index_bytes: int = 0) -> int:
    total = 0.0
    for inputs, outputs in SHAPES * LAYERS:
        groups = inputs // group
        packed_words = inputs * bits / 32 * outputs * 4
        zeros = groups * outputs * bits / 8
        scales = groups * outputs * 2
        index = inputs * index_bytes
        total += packed_words + zeros + scales + index
    return int(total) + 2 * PLAIN


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 128])
def test_gptq_is_packed_weights_scales_zeros_and_an_index_by_order(bits: int, group: int) -> None:
    stored = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False}
    assert weights_of(stored) == gptq(bits, group)
    assert weights_of({**stored, "desc_act": True}) == gptq(bits, group, index_bytes=4)


def test_awq_is_the_same() -> None:
    stored = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
    assert weights_of(stored) == gptq(4, 128)


def test_one_scale_for_all_inputs() -> None:
    stored = {"quant_method": "awq", "bits": 4, "group_size": -1, "zero_point": False}
    matrices = sum(i * o // 2 + 2 * o for i, o in SHAPES) * LAYERS
    assert weights_of(stored) == matrices + 2 * PLAIN


def test_modules_that_are_left_out_keep_16_bits() -> None:
    stored = {"quant_method": "awq", "bits": 4, "group_size": 128}
    without = {**stored, "modules_to_not_convert": ["mlp.down_proj"]}
    quantised = INNER * H // 2 + INNER // 128 * H * (2 + 0.5)
    assert weights_of(without) - weights_of(stored) == LAYERS * (INNER * H * 2 - quantised)


def test_a_router_that_is_left_out_takes_no_matrix_of_the_mlp_along() -> None:
    stored = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    router = {**stored, "modules_to_not_convert": ["lm_head", "model.layers.0.mlp.gate"]}
    assert weights_of(router) == weights_of(stored)


def test_gptq_rules_leave_modules_out_and_other_widths_are_refused() -> None:
    stored = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    rule = {**stored, "dynamic": {r"-:.*layers\.0\..*": {}}}
    assert weights_of(rule) > weights_of(stored)
    with pytest.raises(SpecError, match="dynamic"):
        weights_of({**stored, "dynamic": {r"+:.*": {"bits": 8}}})


def fp8_blocks() -> int:
    return sum(i * o + -(-i // 128) * -(-o // 128) * 4 for i, o in SHAPES) * LAYERS + 2 * PLAIN


def test_fp8_has_a_scale_per_block_or_per_tensor() -> None:
    blocks = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    assert weights_of(blocks) == fp8_blocks()
    tensor = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    assert weights_of(tensor) == sum(i * o + 4 for i, o in SHAPES) * LAYERS + 2 * PLAIN


def compressed(weights: dict[str, Any], **more: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        **more,
    }


INT8 = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}


def test_compressed_int8_has_a_scale_per_output() -> None:
    expected = sum(i * o + 4 * o for i, o in SHAPES) * LAYERS + 2 * PLAIN
    assert weights_of(compressed(INT8)) == expected


def test_compressed_int4_has_a_scale_per_group() -> None:
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
    expected = sum(i * o // 2 + 2 * o * (i // 128) for i, o in SHAPES) * LAYERS + 2 * PLAIN
    assert weights_of(compressed({**weights, "symmetric": True})) == expected


def test_compressed_tensors_ignore_by_name_and_by_pattern() -> None:
    all_of_it = weights_of(compressed(INT8))
    by_name = compressed(INT8, ignore=["lm_head", "model.layers.1.mlp.down_proj"])
    by_pattern = compressed(INT8, ignore=["lm_head", r"re:.*down_proj$"])
    one = INNER * H - 4 * H
    assert weights_of(by_name) - all_of_it == one
    assert weights_of(by_pattern) - all_of_it == LAYERS * one


def test_the_output_matrix_is_quantised_only_where_it_is_not_ignored() -> None:
    untied = {**CONFIG, "tie_word_embeddings": False}
    kept = weights_of(compressed(INT8), untied)
    taken = weights_of(compressed(INT8, ignore=[]), untied)
    assert kept - taken == VOCAB * H - 4 * VOCAB


def test_bitsandbytes_has_a_scale_for_64_values() -> None:
    nf4 = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    blocks = sum(i * o for i, o in SHAPES) * LAYERS // 64
    assert weights_of(nf4) == blocks * (32 + 4) + 2 * PLAIN
    double = weights_of({**nf4, "bnb_4bit_use_double_quant": True})
    assert double - 2 * PLAIN == pytest.approx(blocks * (32 + 1 + 4 / 256), abs=30)
    int8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    assert weights_of(int8) == sum(i * o + 4 * o for i, o in SHAPES) * LAYERS + 2 * PLAIN


def test_experts_are_quantised_and_routers_are_not() -> None:
    mixtral = PUBLIC["mixtral-8x7b"]
    architecture = architecture_from_config(
        {**mixtral, "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
    )
    routers = 32 * 4096 * 8
    attention = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024)
    assert architecture.quantised_parameters == attention + architecture.expert_parameters
    left = architecture.parameters - architecture.quantised_parameters
    assert left == routers + 2 * 32000 * 4096 + (2 * 32 + 1) * 4096


@pytest.mark.parametrize(
    "quantisation",
    [
        {"quant_method": "aqlm"},
        {"quant_method": "mxfp4"},
        {"quant_method": "gptq"},
        {"quant_method": "gptq", "bits": 5},
        {"quant_method": "awq", "bits": "4"},
        {"quant_method": "awq", "bits": 4, "group_size": 0.5},
        {"quant_method": "awq", "bits": 4, "modules_to_not_convert": "lm_head"},
        {"quant_method": "bitsandbytes"},
        {"quant_method": "fp8", "weight_block_size": [0, 128]},
        {"quant_method": "compressed-tensors"},
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


@given(
    bits=st.sampled_from([2, 4, 8]),
    group=st.sampled_from([32, 64, 128]),
    tied=st.booleans(),
)
def test_fewer_bits_are_never_more_bytes(bits: int, group: int, tied: bool) -> None:
    config = {**CONFIG, "tie_word_embeddings": tied}
    stored = {"quant_method": "gptq", "bits": bits, "group_size": group}
    plain = architecture_from_config(config)
    quantised = architecture_from_config({**config, "quantization_config": stored})
    assert quantised.parameters == plain.parameters
    assert quantised.quantised_parameters == plain.linear_parameters
    assert quantised.weights_bytes < plain.weights_bytes
