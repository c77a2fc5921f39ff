"""Samples the proxy's counts periodically, and keeps the samples of the last half hour."""

import asyncio
import collections
import logging
from collections.abc import Callable, Sequence
from typing import Final

from partitiond.core.demand.traffic import NO_WINDOW, TrafficSample, TrafficWindow
from partitiond.core.errors import PartitiondError
from partitiond.ports import ProxyControl

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 2.0
KEPT_SECONDS: Final = 1800.0
"""How long samples are kept: two of them make a window of any length up to this."""


class TrafficWatch:
    """Keeps the proxy's counts over time.

    Args:
        after_look: called with each new sample; what they raise is logged.
    """

    def __init__(
        self,
        proxy: ProxyControl,
        *,
        after_look: Sequence[Callable[[TrafficSample], None]],
        look_seconds: float = LOOK_SECONDS,
        kept_seconds: float = KEPT_SECONDS,
    ) -> None:
        self._proxy = proxy
        self._look_seconds = look_seconds
        self._kept: collections.deque[TrafficSample] = collections.deque(
            maxlen=max(2, round(kept_seconds / look_seconds))
        )
        self._latest: TrafficSample | None = None
        self._after_look = after_look

    @property
    def latest(self) -> TrafficSample | None:
        """The last sample; None before the first."""
        return self._latest

    def window(self, seconds: float) -> TrafficWindow:
        """Return the traffic of the last `seconds`, or since the proxy started if that is less."""
        if len(self._kept) < 2:
            return NO_WINDOW
        new = self._kept[-1]
        since = new.at - seconds
        # There are at most KEPT_SECONDS / LOOK_SECONDS of them.
        own = (s for s in self._kept if s.at >= since and s.epoch == new.epoch)
        old = next(own)  # the newest itself, if there is no other
        return TrafficWindow.between(old if old is not new else self._kept[-2], new)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.take_sample()
            await asyncio.sleep(self._look_seconds)

    async def take_sample(self) -> None:
        """Take one sample. A proxy that does not answer leaves a gap."""
        try:
            sample = await self._proxy.sample()
        except PartitiondError:
            return
        if sample is None:
            return
        self._latest = sample
        # Windows need no usage by key: half an hour of it, for each key and model, would be large.
        self._kept.append(TrafficSample(sample.at, sample.epoch, sample.models, sample.replicas))
        for tell in self._after_look:
            try:
                tell(sample)
            except Exception:
                log.exception("what follows from the traffic broke")
