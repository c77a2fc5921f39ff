"""The windows of one batch are combined into one point."""

import pytest

from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.profile.points import Telemetry
from partitiond.profiler.sweep import points
from tests.profiler.samples import trial_of


def test_telemetry_of_windows_is_weighed_by_their_lengths() -> None:
    first = Telemetry("a", power_watts=10.0, energy_joules=100.0, cores_used=1.0)
    second = Telemetry("a", power_watts=40.0, energy_joules=1200.0)
    both = points.combine_telemetry([(first, 10.0), (second, 30.0), (None, 100.0)])
    assert both is not None
    assert both.power_watts == pytest.approx(32.5)
    assert both.energy_joules == pytest.approx(1300.0)
    assert both.cores_used == pytest.approx(1.0)
    assert both.gpu_util is None
    assert points.combine_telemetry([(None, 1.0)]) is None


def test_energy_is_divided_by_the_tokens_of_the_windows_it_was_told_for() -> None:
    told = trial_of(4, 50.0, telemetry=Telemetry("a", energy_joules=100.0), telemetry_seconds=10.0)
    silent = trial_of(4, 60.0)
    assert points.joules_per_output_token([told, silent]) == pytest.approx(100 / 500)
    assert points.joules_per_output_token([silent]) is None


def test_idle_is_what_the_device_did_not_compute() -> None:
    for says, kind, cores, expected in (
        (Telemetry("a", cores_used=1.5), DeviceKind.CPU, 2, 0.25),
        (Telemetry("a", cores_used=2.4), DeviceKind.CPU, 2, 0.0),
        (Telemetry("a", gpu_util=0.9, cores_used=1.0), DeviceKind.GPU, 4, 0.1),
        (Telemetry("a", cores_used=1.0), DeviceKind.GPU, 4, None),
        (Telemetry("a", gpu_util=0.9), DeviceKind.CPU, 4, None),
        (None, DeviceKind.CPU, 4, None),
    ):
        found = points.idle_share(says, kind, cores)
        assert found == (None if expected is None else pytest.approx(expected))


def test_attainment_pools_the_requests_of_all_windows() -> None:
    windows = [trial_of(1, 1, ended=10, good=10), trial_of(1, 1, ended=30, good=20)]
    assert points.attainment(windows) == 0.75
    assert points.attainment([trial_of(1, 1)]) is None


def test_prompt_tokens_are_counted_per_second_of_all_windows() -> None:
    windows = [trial_of(1, 1, prompt_tokens=tokens) for tokens in (100, 300)]
    assert points.prompt_rate(windows) == 20
