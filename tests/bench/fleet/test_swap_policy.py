"""The policy of llama-swap in `bench.fleet` does what llama-swap's documents say."""

from bench.fleet.swap_policy import Load, Serve, SwapPolicy


def test_a_loaded_model_is_served_at_once_and_another_waits_for_its_requests() -> None:
    policy = SwapPolicy(1)
    assert policy.arrived(1, "a") == [Load("a", ())]
    assert policy.is_loaded("a") == [Serve(1)]
    assert policy.arrived(2, "a") == [Serve(2)]
    assert policy.arrived(3, "b") == []
    assert policy.ended("a") == []
    assert policy.ended("a") == [Load("b", ("a",))]
    assert policy.arrived(4, "a") == []
    assert policy.is_loaded("b") == [Serve(3)]
    assert policy.ended("b") == [Load("a", ("b",))]


def test_requests_share_a_load_and_a_client_that_leaves_is_not_waited_for() -> None:
    policy = SwapPolicy(1)
    policy.arrived(1, "a")
    assert policy.arrived(2, "a") == []
    assert policy.is_loaded("a") == [Serve(1), Serve(2)]
    policy = SwapPolicy(1)
    policy.arrived(1, "a")
    policy.arrived(2, "b")
    assert policy.left(1) == []
    assert policy.is_loaded("a") == [Load("b", ("a",))]
