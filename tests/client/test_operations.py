"""A method of the client is made from what the API calls it."""

import pytest

from partitiond.client import ControlClient
from tests.advise.servers import Answer, serving


def test_an_operation_sends_what_it_was_given_and_nothing_else() -> None:
    paths: list[str] = []

    def answer(path: str) -> Answer:
        paths.append(path)
        return 200, "[]"

    with serving(answer) as url, ControlClient(url, "t") as client:
        assert client.replicas("a b") == client.replicas() == client.replicas(model=None) == []
        client.releases("../x")
        client.releases(name="..")
        for wrong in ((), ("a", "b")):
            with pytest.raises(TypeError):
                client.releases(*wrong)
        with pytest.raises(TypeError):
            client.models(name="a")
    base = client.base_url.removeprefix(url)
    assert [path.removeprefix(base) for path in paths] == [
        "/replicas?model=a+b", "/replicas", "/replicas",
        "/models/..%2Fx/releases", "/models/%2E%2E/releases",
    ]  # fmt: skip
