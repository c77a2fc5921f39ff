"""What holds for a client and an engine on one host holds when the engine is on another one.

These are the tests of `tests.proxy`, with a `make_proxy` whose replicas are all on another host.
Those that look at the replicas of the proxy itself are left out; `test_hops` has their like.
"""

import pytest

from tests.proxy import (
    test_charges,
    test_load_reports,
    test_output_limits,
    test_relay,
    test_request_fields,
    test_retries,
)
from tests.proxy.conftest import Proxy
from tests.proxy.virtual import virtual_time

pytestmark = virtual_time

LEFT_OUT = {
    "test_a_broken_model_takes_no_retries_from_another",
    "test_a_retry_that_waits_in_vain_is_given_back",
    "test_no_credit_is_taken_where_the_others_drain_or_are_dead",
    "test_what_runs_is_reserved_by_estimate",
    "test_whose_time_in_the_queue_runs_out_pays_nothing",
    "test_a_new_engine_behind_the_name_gets_no_old_connection",
    "test_a_routing_update_leaves_running_streams_alone",
    "test_a_draining_replica_gets_nothing_new_and_finishes_what_runs",
    "test_a_client_that_leaves_cancels_upstream",
}

for module in (
    test_relay,
    test_charges,
    test_load_reports,
    test_output_limits,
    test_request_fields,
    test_retries,
):
    for name, test in vars(module).items():
        if name.startswith("test_") and callable(test) and name not in LEFT_OUT:
            assert name not in globals(), name
            globals()[name] = test


@pytest.fixture(autouse=True)
def books(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue that a key pays in is the owner's, which hears of an end a moment later."""
    charged = test_charges.charged

    def of_entry(proxy: Proxy, name: str = "k1") -> dict[str, float]:
        books = charged(proxy, name)
        assert books["queue"] == 0.0
        return books | {"queue": books["counted"]}

    monkeypatch.setattr(test_charges, "charged", of_entry)
