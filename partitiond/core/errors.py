"""Defines the errors that partitiond raises, as one tree.

    PartitiondError
    ├ InputError                the given input is wrong; nothing was changed
    │ ├ SpecError               a model, workload, SLO, demand or fleet description
    │ ├ ProfileError            a profile that is missing, stale or not readable
    │ ├ SettingsError           a setting, in a file, the environment or a flag
    │ ├ NotFoundError           no such model, job, profile, replica or key
    │ └ ConflictError           an object exists already, changed meanwhile, or is in use
    │   ├ PreconditionFailedError  the named version is not the present one
    │   └ FencedError           a host obeys another control plane
    ├ UnauthorizedError         no credentials, or wrong ones
    ├ DaemonUnreachableError    no daemon answers on the control URL
    ├ DaemonTimeoutError        the daemon is there and does not answer in time
    ├ NotReadyError             the daemon answers but cannot do its work yet
    ├ StoreError                the store is locked, corrupted or of a newer version
    │ └ StoreBusyError          another process holds its lock; nothing was written
    ├ NotKeptError              it is done, and a restart forgets it: the disk refused it
    ├ DeviceError               NVML, MPS, MIG or the host refused
    │ └ SilentError             a device or host neither answered nor refused in time
    │   └ HostSilentError       a whole host cannot be reached; its engines go on
    ├ ModelSourceError          weights or config cannot be fetched
    ├ EngineError               an engine process
    │ ├ EngineUnavailableError  no engine environment, or an unknown version
    │ ├ StartFailedError        the engine exited, or was refused, while starting
    │ ├ StartTimedOutError      the engine never became ready
    │ └ ExitedError             the engine was serving and is gone
    └ UpstreamError             an engine broke during a request

"Cannot" is a value (`Infeasible`, `Unplaced`, `Rejected`, `Unknown`), not one of these errors.
Every error says what to do next in `hint`; facts are fields.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Final

MAX_DEPTH: Final = 5
MAX_ITEMS: Final = 1000
MAX_CHARS: Final = 4000
"""Of one fact: what a file or a peer wrote may be of any size, and errors are kept. Chosen."""


class PartitiondError(Exception):
    """Base of all errors that partitiond raises on purpose.

    Whatever is given, its texts are UTF-8, and its facts are values that JSON has.

    Attributes:
        code: stable snake_case word for programs.
        hint: what the reader should do next, one sentence or empty.
        facts: the values behind the message (bytes asked, bytes free, paths, names).
    """

    code = "error"

    def __init__(
        self, message: str, *, hint: str = "", facts: Mapping[str, object] | None = None
    ) -> None:
        self.message, self.hint = _text(message), _text(hint)
        super().__init__(self.message)
        self.facts = {_text(key): _plain(value) for key, value in (facts or {}).items()}

    def __str__(self) -> str:
        # A message may end with lines of a log, of which the hint is no part.
        between = "\n" if "\n" in self.message else " "
        return f"{self.message}{between}{self.hint}".strip()


def _plain(value: object, depth: int = 0) -> object:
    """Convert a fact to a value that JSON has: it may be a path, an enum, NaN, or a file's."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 1 << 63:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return value
    if not isinstance(value, Mapping | list | tuple | set | frozenset):
        return _text(str(value))[:MAX_CHARS]
    if depth == MAX_DEPTH:
        return "..."
    items = itertools.islice(value, MAX_ITEMS)
    if isinstance(value, Mapping):
        return {_text(str(key))[:MAX_CHARS]: _plain(value[key], depth + 1) for key in items}
    return [_plain(item, depth + 1) for item in items]


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


class InputError(PartitiondError):
    """The given input is wrong; nothing was changed."""

    code = "invalid_input"


class SpecError(InputError):
    """A model, workload, SLO, demand or fleet description is wrong."""

    code = "invalid_spec"


class ProfileError(InputError):
    """A profile is missing, stale or not readable."""

    code = "invalid_profile"


class SettingsError(InputError):
    """A setting in a file, the environment or a flag is wrong."""

    code = "invalid_settings"


class NotFoundError(InputError):
    """There is no such model, job, profile, replica or key."""

    code = "not_found"


class ConflictError(InputError):
    """An object exists already, changed meanwhile, or is in use."""

    code = "conflict"


class PreconditionFailedError(ConflictError):
    """The named version is not the present one; nothing was changed."""

    code = "precondition_failed"


class FencedError(ConflictError):
    """A host obeys another control plane, or a later start of this one; nothing was done there."""

    code = "fenced"


class UnauthorizedError(PartitiondError):
    """No credentials were given, or wrong ones."""

    code = "unauthorized"


class DaemonUnreachableError(PartitiondError):
    """No daemon answers on the control URL."""

    code = "daemon_unreachable"


class DaemonTimeoutError(PartitiondError):
    """The daemon took the request and did not answer in time: it runs, so it is not replaced."""

    code = "daemon_timeout"


class NotReadyError(PartitiondError):
    """The daemon answers but cannot do its work yet."""

    code = "not_ready"


class StoreError(PartitiondError):
    """The store is locked, corrupted or of a newer version; it was not written."""

    code = "store"


class StoreBusyError(StoreError):
    """Another process holds the store's lock; nothing was written."""

    code = "store_busy"


class NotKeptError(PartitiondError):
    """What was asked is done, and a restart forgets it: the disk refused it."""

    code = "not_kept"


class DeviceError(PartitiondError):
    """NVML, MPS, MIG or the host refused."""

    code = "device"


class SilentError(DeviceError):
    """A driver, a helper or the host neither answered nor refused in time: the state is unknown."""

    code = "device_silent"


class HostSilentError(SilentError):
    """A host cannot be reached: nothing is known of what the call did. Its engines go on."""

    code = "host_silent"


class ModelSourceError(PartitiondError):
    """Weights or config of a model cannot be fetched or read."""

    code = "model_source"


class EngineError(PartitiondError):
    """An engine process failed."""

    code = "engine"


class EngineUnavailableError(EngineError):
    """There is no engine environment, or its version is not known."""

    code = "engine_unavailable"


class StartFailedError(EngineError):
    """The engine exited, or was refused, while starting."""

    code = "engine_start_failed"


class StartTimedOutError(EngineError):
    """The engine never became ready within its deadline."""

    code = "engine_start_timed_out"


class ExitedError(EngineError):
    """The engine was serving and is gone."""

    code = "engine_exited"


class UpstreamError(PartitiondError):
    """An engine broke during a request.

    Attributes:
        after_first_byte: whether content had already reached the client, so that the request
            may not be sent again.
    """

    code = "upstream"

    def __init__(
        self,
        message: str,
        *,
        after_first_byte: bool,
        hint: str = "",
        facts: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, facts=facts)
        self.after_first_byte = after_first_byte
