"""Why a model that runs in GPU instances only finds none on any device, and what would help."""

from collections.abc import Sequence

from partitiond.core.hardware import Device, SharingMode
from partitiond.core.plan import Candidate
from partitiond.planner.room_for import Blocker, slices_blocker


def why_no_instance(
    candidates: Sequence[Candidate], devices: Sequence[Device], name: str
) -> tuple[str, str] | None:
    """Reason and remedy; None where something else than GPU instances decides.

    Args:
        candidates: of the model, for hardware that there is.
        devices: all that there are.
        name: of the model.
    """
    pairs = [
        (device, c)
        for device in devices
        for c in candidates
        if c.hardware == device.hardware and c.size.mode in device.modes and not device.cordoned
    ]
    if not pairs or any(c.size.mode is not SharingMode.MIG for _, c in pairs):
        return None
    stops = [(device, stop) for device, c in pairs if (stop := slices_blocker(device, (), c))]
    if len(stops) < len(pairs):
        return None
    sizes = " or ".join(sorted({c.size.mig_profile for _, c in pairs}))
    device, nearest = min(stops, key=lambda pair: pair[1].lacking)
    reason = f"{name} needs an instance of {sizes}, and no device has one for it: {nearest.what}."
    return reason, _remedy(device, nearest)


def _remedy(device: Device, stop: Blocker) -> str:
    if stop.kind == "memory":
        return "Profile it in a larger MIG slice, or give it a shorter context."
    if device.mig_fixed:
        return (
            "Make such an instance (`partitiond devices mig apply`), or let plans make it: set "
            "gpu.mig_changes to instances."
        )
    return "Profile it in another size, or free the memory slices that others hold."
