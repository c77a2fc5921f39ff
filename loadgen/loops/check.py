"""Sends each model a one-token request before a run, so that a wrong name fails at once with the
server's own message, and not as a run full of errors."""

from collections.abc import Sequence
from typing import Final

from loadgen.errors import TargetError
from loadgen.http.client import Client
from loadgen.load.workload import RequestFactory, Workload
from loadgen.results.records import Outcome, Record

TRIAL_INDEX: Final = 1 << 40
"""Far beyond the indices of any run, so that the trial's prompt warms no prefix cache for it."""


async def check_target(
    target: str, workloads: Sequence[Workload], *, api_key: str = "", timeout_seconds: float = 120.0
) -> None:
    """Send the trial requests.

    A server that refuses for now (429, 503) passes the check: the run itself measures refusals.

    Raises:
        TargetError: a trial request failed; the message is the server's.
    """
    asked = {(load.model, load.endpoint): load for load in workloads}
    async with Client(target, api_key=api_key, timeout_seconds=timeout_seconds) as client:
        for load in asked.values():
            request = RequestFactory(load).request(TRIAL_INDEX, 1)
            record = await client.send(request.body, Record(0), endpoint=request.endpoint)
            if record.outcome not in {Outcome.OK, Outcome.REFUSED}:
                said = record.error.rstrip(".")
                raise TargetError(
                    f"a trial request for the model {load.model!r} failed: {said}. "
                    f"Check the address {client.target} and the model's name; --no-check goes on "
                    "without a trial."
                )
