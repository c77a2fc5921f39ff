"""A method of the client is made from what the API calls it."""

from types import NoneType
from typing import Any

import pytest

from partitiond.client import ControlClient
from partitiond.client.operations import Operation


class Recording(ControlClient):
    """Notes what it would send; each answer is empty."""

    look = Operation(NoneType, "GET", "/models/{name}/looks", "since")
    change = Operation(NoneType, "PUT", "/models/{name}", "level", timeout=9.0)

    def _call(self, method: str, path: str, **given: Any) -> bytes:
        self.sent = (method, path, {key: v for key, v in given.items() if v is not None})
        return b""


def test_an_operation_sends_what_it_was_given_and_nothing_else() -> None:
    client = Recording("http://127.0.0.1:1", "t")
    for method, arguments, named, sent in (
        (client.look, ("../x",), {}, ("GET", "/models/..%2Fx/looks", {})),
        (client.look, (".", 7), {}, ("GET", "/models/%2E/looks", {"query": {"since": 7}})),
        (client.look, (), {"name": "m", "since": None}, ("GET", "/models/m/looks", {})),
        (client.change, ("m", 2), {}, ("PUT", "/models/m", {"body": {"level": 2}, "timeout": 9.0})),
        (client.change, ("m",), {}, ("PUT", "/models/m", {"timeout": 9.0})),
    ):
        assert method(*arguments, **named) is None
        assert client.sent == sent
    for wrong in ((), ("a", "b", "c")):
        with pytest.raises(TypeError):
            client.look(*wrong)
    with pytest.raises(TypeError):
        client.models(name="a")
    client.close()
