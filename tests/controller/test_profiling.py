"""What a profile job is stored with."""

import pytest

from partitiond.controller.profiling import ProfilingOptions, params_of
from partitiond.core.errors import InputError
from partitiond.devices.fake import fake_cpu
from partitiond.ports import ProfileOptions


@pytest.mark.parametrize(
    ("asked", "settings", "expected"),
    [(None, (), "4"), (None, (1, 2), "1"), (None, (8,), "4"), (2, (1,), "2")],
)
def test_cores_come_from_the_request_then_the_settings_then_the_device(
    asked: int | None, settings: tuple[int, ...], expected: str
) -> None:
    defaults = ProfilingOptions(cpu_partition_cores=settings)
    made = dict(params_of(ProfileOptions(cores=asked), [fake_cpu(cores=4)], defaults))
    assert made["cores"] == expected


def test_more_cores_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match="4 cores for engines, 5 were asked for"):
        params_of(ProfileOptions(cores=5), [fake_cpu(cores=4)], ProfilingOptions())
