"""Makes methods of `ControlClient` from what the control API calls them."""

import inspect
import re
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from partitiond.client.bodies import given, quoted
from partitiond.client.connection import Connection

T = TypeVar("T")

_BODIES: Final = ("POST", "PUT", "PATCH")
"""Methods that take their arguments in a body, and not in the query."""


class Operation(Generic[T]):
    """One operation of the control API, as a method of the client.

    The fields of the path come first, each of them must be given. An argument that is left out, or
    None, is not sent.
    """

    def __init__(
        self,
        kind: type[T],
        method: str,
        path: str,
        *takes: str,
        timeout: float | None = None,
    ) -> None:
        """
        Args:
            kind: type of the answer; NoneType for an answer without content.
            method: of HTTP.
            path: below the API, with fields as "/models/{name}".
            takes: names of the arguments beside those of the path.
            timeout: deadline in seconds; None for the client's.
        """
        self._kind, self._method, self._path, self._timeout = kind, method, path, timeout
        self._fields = re.findall(r"{(\w+)}", path)
        names = [(name, inspect.Parameter.empty) for name in self._fields]
        self._signature = inspect.Signature(
            [
                inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
                for name, default in [*names, *((name, None) for name in takes)]
            ]
        )

    def __get__(self, client: Connection, _: type) -> Callable[..., T]:
        def call(*args: object, **named: object) -> T:
            rest = dict(self._signature.bind(*args, **named).arguments)
            parts = {field: quoted(str(rest.pop(field))) for field in self._fields}
            sent, in_body = given(**rest) or None, self._method in _BODIES
            answer = client._call(
                self._method,
                self._path.format(**parts),
                body=sent if in_body else None,
                query=None if in_body else sent,
                timeout=self._timeout,
            )
            return client._read(self._kind, answer or b"null")

        return call
