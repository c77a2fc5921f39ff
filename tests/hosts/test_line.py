"""An answer over a socket is given up once nobody waits for it."""

import asyncio
from pathlib import Path

from partitiond.hosts.line import SocketCarrier, serve_line


async def test_an_answer_for_which_nobody_waits_any_more_is_cancelled(tmp_path: Path) -> None:
    asked, cancelled = asyncio.Event(), asyncio.Event()

    async def answer(_host: str, _seconds: float, _body: bytes) -> bytes:
        asked.set()
        try:
            return await asyncio.Future()
        finally:
            cancelled.set()

    async with await serve_line(tmp_path / "a.sock", answer):
        carrier = SocketCarrier(tmp_path / "a.sock", "gpu-1", seconds=600.0)
        call = asyncio.ensure_future(carrier.call(b"news"))
        await asked.wait()
        call.cancel()
        async with asyncio.timeout(60.0):
            await cancelled.wait()
