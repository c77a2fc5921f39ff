"""Bounds the connections to the control API that have shown no token yet.

Every connection holds an open file of the daemon, which supervises engines with the same files.
"""

import asyncio
import math
from collections.abc import Mapping
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from partitiond.api.auth import ADMITTED

MAX_UNKNOWN: Final = 128
"""Connections without a valid token at a time; a further one takes the place of the oldest. A
client sends its token with its first bytes, so it is known long before 128 others came. Chosen."""
UNKNOWN_SECONDS: Final = 10.0
"""A connection that has shown no valid token by then is closed, unless it is being answered: a page
of the dashboard may be on its way over a slow line. Chosen."""


class ApiConnection(HttpToolsProtocol):
    """A connection to the control API: uvicorn's, which ends if it stays unknown."""

    _deadline: asyncio.TimerHandle | None = None
    """Set as long as no token was seen."""

    def connection_made(self, transport: Any) -> None:
        """Take the connection, in the place of the oldest unknown one if there are too many."""
        unknown = [c for c in self.connections if isinstance(c, ApiConnection) and c._is_unknown()]
        super().connection_made(transport)
        self._begin_deadline()
        if len(unknown) >= MAX_UNKNOWN:
            min(unknown, key=ApiConnection._ends_at).transport.abort()

    def on_response_complete(self) -> None:
        """Note whether the request that ends here had a token: the next one may be incomplete."""
        self._is_unknown()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline with the connection."""
        self._forget_deadline()
        super().connection_lost(exc)

    def _is_unknown(self) -> bool:
        scope: Mapping[str, Any] | None = self.scope  # None before the first request
        if scope is not None and scope.get(ADMITTED, False):
            self._forget_deadline()
        return self._deadline is not None

    def _begin_deadline(self) -> None:
        self._deadline = self.loop.call_later(UNKNOWN_SECONDS, self._end_if_unknown)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _ends_at(self) -> float:
        return self._deadline.when() if self._deadline is not None else math.inf

    def _end_if_unknown(self) -> None:
        if not self._is_unknown():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._begin_deadline()
        else:
            self.transport.abort()
