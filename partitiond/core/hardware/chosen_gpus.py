"""Chooses the GPUs that a daemon may use: those of a setting, or of CUDA_VISIBLE_DEVICES.

The entries mean what CUDA takes them for: an index in PCI order, which is the driver's, a UUID or
its beginning. The list ends at the first entry that names no GPU, as -1 does.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

VARIABLE: Final = "CUDA_VISIBLE_DEVICES"
SETTING: Final = "gpu.devices"


@dataclasses.dataclass(frozen=True, slots=True)
class ChosenGpus:
    """Entries that name GPUs.

    Attributes:
        entries: indexes and UUIDs; None for all GPUs.
        source: name of the setting or variable that has them, for messages.
    """

    entries: tuple[str, ...] | None = None
    source: str = SETTING

    def reasons(self, uuids: Sequence[str]) -> Mapping[str, str]:
        """Return why each GPU that was not chosen may not be used, by UUID.

        Args:
            uuids: all GPUs, in the driver's order.
        """
        if self.entries is None:
            return {}
        slices = [entry for entry in self.entries if entry.startswith("MIG-")]
        chosen = () if slices else tuple(self._chosen(uuids))
        reason = f"{self.source}={','.join(self.entries)} leaves it to others."
        if slices:
            reason = f"{self.source} names {slices[0]}: name whole GPUs, of which MIG is planned."
        return {uuid: reason for uuid in uuids if uuid not in chosen}

    def _chosen(self, uuids: Sequence[str]) -> Iterator[str]:
        for entry in self.entries or ():
            if entry.isdecimal():
                found = list(uuids[int(entry) :][:1]) if len(entry) < 6 else []
            else:
                found = [uuid for uuid in uuids if len(entry) > 4 and uuid.startswith(entry)]
            if len(found) != 1:
                return
            yield found[0]


ALL_GPUS: Final = ChosenGpus()


def chosen_gpus(setting: Sequence[str], environment: Mapping[str, str]) -> ChosenGpus:
    """Return the GPUs of the setting, else those of the environment, else all."""
    if setting:
        return ChosenGpus(tuple(setting))
    text = environment.get(VARIABLE)
    if text is None:
        return ALL_GPUS
    return ChosenGpus(tuple(entry.strip() for entry in text.split(",")), VARIABLE)
