"""Runs examples of properties on virtual time, each on a loop of its own."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from tests.proxy.virtual import VirtualLoop


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run it on a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)


async def passes(seconds: float) -> None:
    """Let everybody do what they do in so much virtual time."""
    await asyncio.sleep(seconds)
