"""Says what is known of the hosts of a fleet. Pure."""

import dataclasses
import enum


class HostState(enum.StrEnum):
    """What is known of a host now.

    A host that misses a look is late: what was seen of it last counts. After `host.silent_seconds`
    it is silent: nothing is known of its devices, nothing is started or ended there, and its
    engines go on. After `host.lost_seconds` it is lost: the plan is made for the others. A host is
    refused if another host has its name, it obeys another head, or it has too old a release.
    """

    FINE = "fine"
    LATE = "late"
    SILENT = "silent"
    LOST = "lost"
    REFUSED = "refused"


@dataclasses.dataclass(frozen=True, slots=True)
class HostView:
    """A host as people and programs see it.

    Attributes:
        name: the host's own.
        state: see `HostState`.
        reason: why it is not fine, and what to do; empty if it is.
        is_head: whether the control plane runs on it.
        address: at which other hosts reach it; empty if there is no other.
        host_id: made when it joined first; stays when its name or address changes.
        partitiond_version: of its agent; empty until it answered.
        engine_version: of its installed engine; empty if there is none or it is not known.
        silent_seconds: since its last word; 0.0 if it answers.
        last_word: when it answered last, ISO 8601 UTC; empty if it never did.
        clock_offset_seconds: its clock less the head's, half the way there and back allowed for;
            None until it answered.
        gpus: number of its GPUs, as last seen.
        devices: number of all its devices, as last seen.
    """

    name: str
    state: HostState = HostState.FINE
    reason: str = ""
    is_head: bool = False
    address: str = ""
    host_id: str = ""
    partitiond_version: str = ""
    engine_version: str = ""
    silent_seconds: float = 0.0
    last_word: str = ""
    clock_offset_seconds: float | None = None
    gpus: int = 0
    devices: int = 0
