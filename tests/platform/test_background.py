"""The tasks beside the loop continue after a defect, and end with the daemon."""

import asyncio

from partitiond.platform.background import Background


async def test_what_breaks_begins_again_and_what_ends_does_not() -> None:
    begun: list[str] = []
    survived = asyncio.Event()

    async def breaks_once() -> None:
        begun.append("breaks once")
        if begun.count("breaks once") == 1:
            raise RuntimeError("a defect")
        survived.set()
        await asyncio.Event().wait()

    async def ends() -> None:
        begun.append("ends")

    background = Background([breaks_once, ends], again_seconds=0.0)
    background.start()
    async with asyncio.timeout(60):
        await survived.wait()
    await background.stop()
    assert sorted(begun) == ["breaks once", "breaks once", "ends"]
    assert len(asyncio.all_tasks()) == 1, "nothing of it is left"
