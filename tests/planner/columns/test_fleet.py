"""What a replica needs nothing of does not bound how many a device holds."""

import numpy as np
import pytest

from partitiond.planner.columns.fleet import most_replicas
from partitiond.planner.model.sites import NO_LIMIT

BUSY = np.zeros(513, dtype=np.int64)


@pytest.mark.parametrize(
    ("capacity", "use", "most"),
    [
        ([1024, 100, 192, 0, 0], [1, 0, 1, 0, 0], 192),
        ([1024, 100, 4, 0, 0], [64, 1, 0, 0, 0], 16),
        ([1024, 100, 4, 0, 0], [1, 30, 2, 0, 0], 2),
        ([NO_LIMIT, NO_LIMIT, NO_LIMIT, 0, 0], [1, 1, 1, 0, 0], 512),
    ],
)
def test_only_what_replicas_need_bounds_them(
    capacity: list[int], use: list[int], most: int
) -> None:
    assert most_replicas(BUSY, np.array([use]), np.array(capacity)) == most
