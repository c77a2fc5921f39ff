"""Reads keys from a terminal one by one, without waiting for the end of a line."""

import contextlib
import os
import select
import termios
import time
import tty
from collections.abc import Iterator
from typing import Final

_SEQUENCES: Final = {
    "[A": "up",
    "[B": "down",
    "[5~": "pageup",
    "[6~": "pagedown",
    "OA": "up",
    "OB": "down",
}


class KeyPresses:
    """The keys that are typed at a terminal while `held`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._text = ""

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Read keys at once and without echo; restore the terminal at the end."""
        before = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)
        try:
            yield
        finally:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, before)

    def within(self, seconds: float) -> str | None:
        """The next key, or None if none came in time; "q" if the terminal is gone."""
        deadline = time.monotonic() + seconds
        while not self._text:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._descriptor], [], [], left)[0]:
                return None
            data = os.read(self._descriptor, 64)
            if not data:
                return "q"
            self._text += data.decode(errors="ignore")
        key, self._text = split_key(self._text)
        return key


def split_key(text: str) -> tuple[str, str]:
    """The first key of the typed text, and the rest. Arrows have names; other sequences are dropped
    whole, so that none of their letters is taken for a key."""
    if not text.startswith("\x1b") or len(text) == 1:
        return text[0], text[1:]
    for sequence, name in _SEQUENCES.items():
        if text.startswith(sequence, 1):
            return name, text[1 + len(sequence) :]
    if text[1] not in "[O":
        return "\x1b", text[1:]
    end = next((n for n, c in enumerate(text[2:], 2) if c.isalpha() or c == "~"), len(text) - 1)
    return "", text[end + 1 :]
