"""Adds the release calls to `ControlClient`."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from partitiond.client.bodies import quoted
from partitiond.core.replica.releases import Release

T = TypeVar("T")


class _Calls(Protocol):
    def _get(self, kind: type[T], path: str, query: Mapping[str, Any] | None = None) -> T: ...

    def _call(self, method: str, path: str, *, body: object = None) -> bytes: ...

    def _read(self, kind: type[T], content: bytes) -> T: ...


class ReleaseCalls:
    """Mixed into `ControlClient`."""

    def releases(self: _Calls, name: str) -> Sequence[Release]:
        """Return the releases of a model, newest first. Raises NotFoundError."""
        return self._get(list[Release], f"/models/{quoted(name)}/releases")

    def roll_back(self: _Calls, name: str, version: int | None = None) -> Release:
        """Go back to a release, by default to the previous one. Raises ConflictError."""
        body = {} if version is None else {"version": version}
        return self._read(
            Release, self._call("POST", f"/models/{quoted(name)}/rollback", body=body)
        )
