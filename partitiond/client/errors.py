"""Converts the server's problem details back into the exceptions that caused them."""

import json
from collections.abc import Mapping
from typing import Any, Final

import httpx

from partitiond.core import errors as e

BY_CODE: Final[dict[str, type[e.PartitiondError]]] = {
    kind.code: kind
    for kind in (
        e.InputError,
        e.SpecError,
        e.ProfileError,
        e.SettingsError,
        e.NotFoundError,
        e.ConflictError,
        e.PreconditionFailedError,
        e.UnauthorizedError,
        e.NotReadyError,
        e.StoreError,
        e.StoreBusyError,
        e.DeviceError,
        e.ModelSourceError,
        e.EngineError,
        e.EngineUnavailableError,
        e.StartFailedError,
        e.StartTimedOutError,
        e.ExitedError,
    )
}
"""Codes that are not here become a PartitiondError with the server's code."""


def unreachable(url: str, cause: str) -> e.DaemonUnreachableError:
    """Return the error for a daemon that does not answer."""
    return e.DaemonUnreachableError(
        f"no daemon answers on {url}: {cause}.",
        hint="Start it with: partitiond serve",
        facts={"url": url},
    )


def no_answer(url: str, error: Exception, seconds: float) -> e.PartitiondError:
    """Return the error for a request without an answer: unreachable, or timed out.

    Args:
        seconds: how long the client waited for an answer.
    """
    if not isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout | httpx.PoolTimeout):
        return unreachable(url, str(error) or type(error).__name__)
    return e.DaemonTimeoutError(
        f"the daemon on {url} runs, but did not answer within {seconds:.0f} s.",
        hint="It may be busy: try again. Its log says what it is at.",
        facts={"url": url, "seconds": seconds},
    )


def not_ours(url: str, status: int) -> e.DaemonUnreachableError:
    """Return the error for an answer that does not come from a control API of this version."""
    return e.DaemonUnreachableError(
        f"what answers on {url} (status {status}) is not partitiond's control API, "
        "or is another version of it.",
        hint="Check control.host and control.port (or PARTITIOND_URL), and that client and "
        "daemon are of one version.",
        facts={"url": url, "status": status},
    )


def from_problem(url: str, status: int, content: bytes) -> e.PartitiondError:
    """Return the exception for an error answer."""
    body = _problem(content)
    if body is None:
        return not_ours(url, status)
    code, facts = str(body["code"]), body.get("facts")
    kind = BY_CODE.get(code, e.PartitiondError)
    error = kind(
        str(body["detail"]),
        hint=str(body.get("hint", "")),
        facts=facts if isinstance(facts, Mapping) else None,
    )
    error.code = code
    return error


def _problem(content: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(content)
    except ValueError:
        return None
    return body if isinstance(body, dict) and {"code", "detail"} <= body.keys() else None
