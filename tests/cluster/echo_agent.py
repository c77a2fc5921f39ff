"""An agent in a process of its own: answers "HOST:MESSAGE", and writes down what it answered.

Run as `python echo_agent.py SOCKET HOST DONE`. A message "after N" is answered after N others.
"""

import asyncio
import sys
from pathlib import Path

from partitiond.hosts.line import serve_line


async def main() -> None:
    socket, name, done = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    others = asyncio.Semaphore(0)

    async def answer(host: str, seconds: float, body: bytes) -> bytes:
        if body.startswith(b"after "):
            for _ in range(int(body[6:])):
                await others.acquire()
        else:
            others.release()
        with done.open("ab") as file:  # noqa: ASYNC230 - a line
            file.write(body[:60] + b"\n")
        return name.encode() + b":" + body

    server = await serve_line(socket, answer)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
