"""The policy of llama-swap in `bench.fleet` does what llama-swap's documents say."""

import random

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


class World:
    """Does what the policy says, and checks it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.policy = SwapPolicy(limit)
        self.models: dict[int, str] = {}
        self.served: list[int] = []
        self.running: list[str] = []
        self.loading: list[str] = []
        self.held: set[str] = set()

    def ask(self, number: int, model: str) -> None:
        self.models[number] = model
        self.take(self.policy.arrived(number, model))

    def load(self) -> None:
        self.take(self.policy.is_loaded(self.loading.pop(0)))

    def end(self) -> None:
        self.take(self.policy.ended(self.running.pop()))

    def take(self, actions: list[Serve | Load]) -> None:
        for action in actions:
            if isinstance(action, Serve):
                model = self.models[action.request]
                assert model in self.held
                self.served.append(action.request)
                self.running.append(model)
            else:
                assert not set(action.unload) & set(self.running)
                self.held = (self.held - set(action.unload)) | {action.model}
                self.loading.append(action.model)
                assert len(self.held) <= self.limit


def test_whatever_comes_every_request_is_served_once_and_no_more_models_are_loaded() -> None:
    for seed in range(200):
        chance = random.Random(seed)
        world = World(chance.randint(1, 3))
        for number in range(30):
            world.ask(number, chance.choice("abcde"))
            if world.loading and chance.random() < 0.6:
                world.load()
            if world.running and chance.random() < 0.6:
                world.end()
        while world.loading or world.running:
            if world.loading:
                world.load()
            else:
                world.end()
        assert sorted(world.served) == list(range(30))
