"""Sends the admin token and the actor's name; rereads a missing or refused token."""

from collections.abc import Callable, Generator
from typing import Final

import httpx

from partitiond.core.actors import HEADER
from partitiond.core.errors import UnauthorizedError

UNAUTHORIZED: Final = 401


class Credentials(httpx.Auth):
    """The headers that identify the caller.

    A daemon writes its token when it starts, which may be after the client was made. So the client
    rereads the token before each request while it has none, and once after a 401.

    Attributes:
        token: the admin token, or empty; may be set at any time.
        reread: reads the token from its file, empty if it is not there yet; None if the token was
            given by hand.
    """

    def __init__(self, token: str, actor: str, reread: Callable[[], str] | None) -> None:
        self.token = token
        self.reread = reread
        self._actor = actor

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the headers; after a 401, send once more if the token has changed.

        Raises:
            UnauthorizedError: the token cannot be sent.
        """
        if self._actor:
            request.headers[HEADER] = self._actor
        if not self.token.strip():
            self._read_again()
        answer = yield self._signed(request)
        if answer.status_code == UNAUTHORIZED and self._read_again():
            yield self._signed(request)

    def _read_again(self) -> bool:
        """Reread the token; return whether it has changed."""
        newest = "" if self.reread is None else self.reread()
        if not newest or newest.strip() == self.token.strip():
            return False
        self.token = newest
        return True

    def _signed(self, request: httpx.Request) -> httpx.Request:
        token = self.token.strip()
        if any(character.isspace() for character in token):
            raise UnauthorizedError(
                "the admin token has a space or line break inside.",
                hint="Take the token as it stands in the file admin-token of the state folder.",
            )
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request
