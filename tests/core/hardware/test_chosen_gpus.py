"""A daemon that was given some GPUs leaves the others alone, as CUDA would."""

import pytest

from partitiond.core.hardware.chosen_gpus import ALL_GPUS, ChosenGpus, chosen_gpus

GPUS = ("GPU-aa11", "GPU-aa22", "GPU-bb33")


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("1", {"GPU-aa22"}),
        ("2, 0", {"GPU-aa11", "GPU-bb33"}),
        ("GPU-bb33", {"GPU-bb33"}),
        ("GPU-b", {"GPU-bb33"}),
        ("GPU-aa", set()),  # the beginning of two
        ("GPU-", set()),
        ("0,-1,1", {"GPU-aa11"}),
        ("0,3,1", {"GPU-aa11"}),
        ("0,GPU-cc,1", {"GPU-aa11"}),
        ("0,,1", {"GPU-aa11"}),
        ("9" * 30, set()),
        ("-1", set()),
        ("", set()),
        ("MIG-0f", set()),
        ("0,MIG-0f", set()),
    ],
)
def test_a_list_of_the_environment_means_what_cuda_takes_it_for(
    text: str, chosen: set[str]
) -> None:
    found = chosen_gpus((), {"CUDA_VISIBLE_DEVICES": text})
    reasons = found.reasons(GPUS)
    assert set(GPUS) - set(reasons) == chosen
    for reason in reasons.values():
        assert "CUDA_VISIBLE_DEVICES" in reason
        assert ("name whole GPUs" in reason) == ("MIG" in text)


def test_the_setting_goes_before_the_environment_and_without_both_all_are_used() -> None:
    found = chosen_gpus(("GPU-bb33",), {"CUDA_VISIBLE_DEVICES": "0"})
    assert found == ChosenGpus(("GPU-bb33",))
    assert set(found.reasons(GPUS)) == {"GPU-aa11", "GPU-aa22"}
    assert "gpu.devices" in found.reasons(GPUS)["GPU-aa11"]
    assert chosen_gpus((), {}) == ALL_GPUS
    assert not ALL_GPUS.reasons(GPUS)
