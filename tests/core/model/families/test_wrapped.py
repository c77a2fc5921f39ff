"""Multimodal configs are counted by their text decoder, and the result says so."""

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.model.families import architecture_from_config
from partitiond.core.performance.footprint import EngineLimits, footprint
from tests.core.model.families.configs import config_of

GEMMA3_4B = {
    # As published: what equals the configuration class's default is left out.
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    },
    "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152},
}


def test_gemma_3_4b_is_its_published_count_less_vision_tower_and_projector() -> None:
    # hub API, safetensors.total of google/gemma-3-4b-it: 4,300,079,472; of these the SigLIP tower
    # has 416,866,032 and the projector 2,950,272.
    architecture = architecture_from_config(GEMMA3_4B)
    assert architecture.parameters == 4_300_079_472 - 416_866_032 - 2_950_272
    assert "towers" in architecture.note
    assert architecture.window_layers == 29


def test_a_decoder_under_another_name_is_its_family() -> None:
    inner = config_of("qwen2_5_vl_text", 256, 512, 2, 4, 2, 1000)
    plain = architecture_from_config({**inner, "model_type": "qwen2"})
    wrapped = architecture_from_config({"model_type": "qwen2_5_vl", "text_config": inner})
    flat = architecture_from_config({**inner, "model_type": "qwen2_5_vl"})
    assert wrapped.parameters == flat.parameters == plain.parameters
    with pytest.raises(SpecError, match="whisper_text"):
        architecture_from_config({"model_type": "whisper", "text_config": {"vocab_size": 5}})


def test_what_is_said_of_the_whole_model_counts_in_its_decoder() -> None:
    inner = config_of("llama", 256, 512, 2, 4, 2, 1000)
    untied = architecture_from_config({"model_type": "llava", "text_config": inner})
    tied = architecture_from_config(
        {"model_type": "llava", "text_config": inner, "tie_word_embeddings": True}
    )
    assert untied.parameters - tied.parameters == 256 * 1000
    inner = config_of("llama", 256, 512, 2, 4, 2, 1000)
    outer = {"quantization_config": {"quant_method": "fp8"}, "text_config": inner}
    assert architecture_from_config({"model_type": "llava", **outer}).quantised_parameters


def test_room_is_reserved_for_a_tower() -> None:
    # The checkpoints hold 419,816,304 and 668,683,776 parameters beside the decoder.
    gemma = architecture_from_config(GEMMA3_4B)
    inner = config_of("qwen2_5_vl_text", 256, 512, 2, 4, 2, 1000)
    for vision in (
        {"hidden_size": 1280, "intermediate_size": 3420, "depth": 32},
        {"embed_dim": 1280, "hidden_size": 3584, "depth": 32},  # Qwen2-VL's: of its decoder
    ):
        qwen = architecture_from_config(
            {"model_type": "qwen2_5_vl", "text_config": inner, "vision_config": vision}
        )
        assert 1 < qwen.tower_parameters / 668_683_776 < 1.5
    assert 1 < gemma.tower_parameters / 419_816_304 < 1.5
    assert gemma.resident_bytes == gemma.weights_bytes + 2 * gemma.tower_parameters
    limits = EngineLimits(1, 2048)
    assert footprint(gemma, limits, 0, DeviceKind.GPU).weights_bytes == gemma.resident_bytes
