"""What the daemon tells its service manager (sd_notify(3)), where there is one.

Readiness, the end, a reload, a line of status for `systemctl status`, and the watchdog. Every
message is a datagram to the socket that NOTIFY_SOCKET names; without one nothing is sent, and a
message that is lost is no failure of ours.

The daemon's children must not speak for it: `NotifyAccess=main` in the unit sees to that.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

STATUS_SECONDS: Final = 5.0
"""How often the line of status is brought up to date where there is no watchdog."""
START_POLL_SECONDS: Final = 0.01
SEND_SECONDS: Final = 0.5
"""A manager that is busy is waited for, since no message comes twice; one that hangs is not."""


def notify(*fields: str) -> None:
    """Send one message made of fields like "READY=1"; a lost message is no failure."""
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
    """Started, or done with a reload."""
    notify("READY=1", *_status(status))


def reloading(now_microseconds: int | None = None) -> None:
    """A reload begins; `ready` ends it.

    The time is asked for by `Type=notify-reload` (systemd 253 and newer), and tells this reload
    from an earlier one.
    """
    now = time.monotonic_ns() // 1000 if now_microseconds is None else now_microseconds
    notify("RELOADING=1", f"MONOTONIC_USEC={now}")


def stopping(status: str = "") -> None:
    """The end begins."""
    notify("STOPPING=1", *_status(status))


def extend_timeout(seconds: float) -> None:
    """Starting or stopping takes up to that much longer (EXTEND_TIMEOUT_USEC)."""
    notify(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")


def _status(text: str) -> tuple[str, ...]:
    line = " ".join(text.split())
    return (f"STATUS={line}",) if line else ()


def watchdog_seconds(environment: Mapping[str, str], pid: int) -> float | None:
    """How long the manager waits for a sign of life, in seconds; None where it does not watch us.

    WATCHDOG_PID names whom it watches: a child that inherited the variables is not meant.
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
    """READY once `started` says so, then signs of life and the status until cancelled.

    A sign of life is given twice within the manager's time, from the event loop and only while
    `alive` agrees: when the loop hangs or the reconcile loop has died, none comes, and the manager
    restarts the daemon (engines and endpoint go on serving meanwhile).

    Args:
        started: whether the API answers.
        status: one line for `systemctl status`.
        alive: whether what must turn still turns.
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
