"""What holds for a client and an engine on one host holds when the engine is on another one.

These are tests of `tests.proxy`, one of each kind of end, with a `make_proxy` whose replicas are
all on another host: the proxy of a hop decides none of these rules anew.
"""

import pytest

from tests.proxy import test_charges, test_relay
from tests.proxy.conftest import Proxy
from tests.proxy.virtual import virtual_time

pytestmark = virtual_time

ENDS = {
    test_relay: (
        "test_what_is_no_answer_is_retried_elsewhere_and_else_told",
        "test_at_most_two_attempts_and_never_twice_the_same_replica",
        "test_a_fault_after_the_first_content_ends_with_an_error_event",
        "test_an_engines_own_error_event_goes_out_once_and_counts_as_failed",
        "test_a_request_error_inside_a_stream_gets_its_status",
        "test_usage_is_passed_on_and_learned_from",
        "test_an_answer_ends_at_its_limits",
        "test_a_request_leaves_nothing_for_the_garbage_collector",
    ),
    test_charges: (
        "test_each_end_has_its_price_in_all_books",
        "test_a_client_that_takes_nothing_pays_what_was_sent_to_it",
        "test_output_that_is_held_back_costs_what_its_engine_did",
    ),
}

for module, names in ENDS.items():
    for name in names:
        globals()[name] = getattr(module, name)


@pytest.fixture(autouse=True)
def books(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue that a key pays in is the owner's, which hears of an end a moment later."""
    charged = test_charges.charged

    def of_entry(proxy: Proxy, name: str = "k1") -> dict[str, float]:
        books = charged(proxy, name)
        assert books["queue"] == 0.0
        return books | {"queue": books["counted"]}

    monkeypatch.setattr(test_charges, "charged", of_entry)
