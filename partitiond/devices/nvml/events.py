"""Listens for Xid messages in a thread that waits for NVML's events until it is closed.

If a GPU falls off the bus, the driver restarts or the library answers nonsense, the thread closes
its session and opens a new one after a pause. No error ends the thread, and a GPU that refuses does
not keep the others from being listened to. While a GPU changes its MIG mode, the thread releases
all GPUs (`quiet`); messages in those seconds are lost.
"""

import contextlib
import ctypes
import datetime
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

import pynvml

from partitiond.core.hardware.health import XidEvent
from partitiond.core.hardware.kinds import short_device
from partitiond.devices.nvml.processes import NO_INSTANCE
from partitiond.devices.nvml.session import or_none, session, text_of

log = logging.getLogger(__name__)

MAX_KEPT: Final = 64
"""Messages kept per GPU. A failing GPU may send thousands; codes repeat."""

FIRST_PAUSE_SECONDS: Final = 0.5
"""Pause after the first refusal; doubled with each further refusal."""


def _utc_now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class XidWatch:
    """Collects the Xid messages of all GPUs of this host since the watch was started.

    Safe to use from any thread.

    Args:
        on_xid: called in the watch's thread with each message; must not raise.
        wait_ms: length of one wait for events; the thread ends within it.
        retry_seconds: time until a library or GPU that refused is tried again.
        now: wall-clock time, ISO 8601 UTC.
    """

    def __init__(
        self,
        on_xid: Callable[[XidEvent], None] = lambda _: None,
        *,
        wait_ms: int = 1000,
        retry_seconds: float = 30.0,
        now: Callable[[], str] = _utc_now,
    ) -> None:
        self._on_xid = on_xid
        self._wait_ms = wait_ms
        self._retry_seconds = retry_seconds
        self._now = now
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._kept: dict[str, deque[XidEvent]] = {}
        self._waited = False
        self._thread: threading.Thread | None = None
        self.listening = threading.Event()
        """Set while events of at least one GPU arrive."""

    def start(self) -> None:
        """Begin to listen; does nothing if the watch listens already."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="xid watch", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread. Received messages stay readable."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(timeout=5 + self._wait_ms / 1000)

    def xids(self, device_id: str) -> tuple[XidEvent, ...]:
        """Return messages about a GPU, oldest first."""
        with self._lock:
            return tuple(self._kept.get(device_id, ()))

    def forget(self, device_id: str) -> None:
        """Forget the messages about a GPU, after an operator has looked after it."""
        with self._lock:
            self._kept.pop(device_id, None)

    # --- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        pause = 0.0
        while not self._ending.is_set():
            self._waited = False
            try:
                with session(), _event_set() as events:
                    again_at_once = self._listen(events)
                pause = 0.0 if again_at_once else self._retry_seconds
            except pynvml.NVMLError as error:
                log.info("Xid messages are not heard for now: %s", error)
                # Messages during the pause are lost. So retry at once if the watch listened until
                # now (one GPU may be gone, the others are not), and then less and less often.
                again = max(FIRST_PAUSE_SECONDS, 2 * pause)
                pause = 0.0 if self._waited else min(self._retry_seconds, again)
            finally:
                self.listening.clear()
            self._ending.wait(pause)

    def _listen(self, events: Any) -> bool:
        """Listen until the end, an error, or the time to retry GPUs that refused.

        Returns:
            Whether at least one GPU was listened to.
        """
        names, missing = _register_all(events)
        if not names:
            return False
        self.listening.set()
        waits_left = self._retry_seconds * 1000 / self._wait_ms if missing else float("inf")
        while not self._ending.is_set() and waits_left > 0:
            waits_left -= 1
            try:
                data = pynvml.nvmlEventSetWait_v2(events, self._wait_ms)
            except pynvml.NVMLError as error:
                if error.value != pynvml.NVML_ERROR_TIMEOUT:
                    raise
                self._waited = True
                continue
            self._waited = True
            if data.eventType == pynvml.nvmlEventTypeXidCriticalError:
                self._heard(names.get(_address(data.device)) or _uuid_of(data.device), data)
        return True

    def _heard(self, device_id: str, data: Any) -> None:
        instance = int(data.gpuInstanceId)
        event = XidEvent(
            device_id=device_id,
            code=int(data.eventData),
            at=self._now(),
            gpu_instance=None if instance == NO_INSTANCE else instance,
        )
        log.warning("Xid %d of %s", event.code, short_device(device_id) or "an unknown GPU")
        if not device_id:
            return
        with self._lock:
            self._kept.setdefault(device_id, deque(maxlen=MAX_KEPT)).append(event)
        self._on_xid(event)


@contextlib.contextmanager
def _event_set() -> Iterator[Any]:
    events = pynvml.nvmlEventSetCreate()
    try:
        yield events
    finally:
        with contextlib.suppress(pynvml.NVMLError):  # the library may be gone with the driver
            pynvml.nvmlEventSetFree(events)


def _register_all(events: Any) -> tuple[dict[int, str], bool]:
    """Register all GPUs; return UUIDs of registered ones by handle, and whether any refused."""
    names: dict[int, str] = {}
    missing = False
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = or_none(pynvml.nvmlDeviceGetHandleByIndex, index)
        supported = (
            None if handle is None else or_none(pynvml.nvmlDeviceGetSupportedEventTypes, handle)
        )
        if handle is None or supported is None:
            missing = True
            continue
        wanted = supported & pynvml.nvmlEventTypeXidCriticalError
        if not wanted:
            continue  # the GPU is too old: retrying changes nothing
        try:
            pynvml.nvmlDeviceRegisterEvents(handle, wanted, events)
        except pynvml.NVMLError as error:
            missing = missing or error.value != pynvml.NVML_ERROR_NOT_SUPPORTED
            continue
        names[_address(handle)] = _uuid_of(handle)
    return names, missing


def _address(handle: Any) -> int:
    return int(ctypes.cast(handle, ctypes.c_void_p).value or 0)


def _uuid_of(handle: Any) -> str:
    return text_of(or_none(pynvml.nvmlDeviceGetUUID, handle) or "")
