"""Reports the daemon's state to its service manager (sd_notify(3)), if there is one.

The messages are readiness, the end, a reload, the status line of `systemctl status`, and the
watchdog's. Every message is a datagram to the socket that NOTIFY_SOCKET names. Without a socket
nothing is sent, and a lost message is not an error.

The daemon's children must not send messages for the daemon: `NotifyAccess=main` prevents that.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

STATUS_SECONDS: Final = 5.0
"""Time between two updates of the status line if there is no watchdog."""
START_POLL_SECONDS: Final = 0.01
SEND_SECONDS: Final = 0.5
"""Longest wait for a busy manager, since messages are not repeated; a hung one is given up."""


def notify(*fields: str) -> None:
    """Send one message made of fields like "READY=1"; a lost message is not an error."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager,
    ):
        manager.settimeout(SEND_SECONDS)
        manager.sendto("\n".join(fields).encode(), address)


def ready(status: str = "") -> None:
    """Report that the daemon has started, or has finished a reload."""
    notify("READY=1", *_status(status))


def reloading(now_microseconds: int | None = None) -> None:
    """Report that a reload begins; `ready` ends it.

    `Type=notify-reload` (systemd 253 and newer) requires the time, which tells this reload from
    an earlier one.
    """
    now = time.monotonic_ns() // 1000 if now_microseconds is None else now_microseconds
    notify("RELOADING=1", f"MONOTONIC_USEC={now}")


def stopping(status: str = "") -> None:
    """Report that the daemon begins to end."""
    notify("STOPPING=1", *_status(status))


def _status(text: str) -> tuple[str, ...]:
    line = " ".join(text.split())
    return (f"STATUS={line}",) if line else ()


def watchdog_seconds(environment: Mapping[str, str], pid: int) -> float | None:
    """Seconds that the manager waits for a sign of life; None if it does not watch this process.

    WATCHDOG_PID is the watched process: a child that inherited the variables is not watched.
    """
    watched = environment.get("WATCHDOG_PID", "")
    text = environment.get("WATCHDOG_USEC", "")
    if watched and watched != str(pid):
        return None
    return int(text) / 1e6 if text.isdigit() and int(text) > 0 else None


async def keep_informed(
    *,
    started: Callable[[], bool],
    status: Callable[[], str] = str,
    alive: Callable[[], bool] = lambda: True,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Send READY once `started` is true, then signs of life and the status until cancelled.

    A sign of life is sent twice within the manager's time, from the event loop and only while
    `alive` is true. If the event loop hangs or the reconcile loop has died, no sign comes, and the
    manager restarts the daemon (engines and endpoint go on serving meanwhile).

    Args:
        started: whether the API answers.
        status: one line for `systemctl status`.
        alive: whether the reconcile loop is still running.
        on_ready: called once, after READY.
    """
    while not started():  # noqa: ASYNC110 - the server has a flag and no event
        await asyncio.sleep(START_POLL_SECONDS)
    told = status()
    ready(told)
    if on_ready is not None:
        on_ready()
    if not os.environ.get("NOTIFY_SOCKET"):
        return
    watchdog = watchdog_seconds(os.environ, os.getpid())
    pause = STATUS_SECONDS if watchdog is None else min(STATUS_SECONDS, watchdog / 2)
    while True:
        now = status()
        fields = ("WATCHDOG=1",) if watchdog is not None and alive() else ()
        if now != told:
            fields, told = (*fields, *_status(now)), now
        if fields:
            notify(*fields)
        await asyncio.sleep(pause)
