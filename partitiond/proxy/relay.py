"""Carrying a request: its attempts, the retry, and an honest end.

Nothing goes to the client before the first content came from an engine. Until then an attempt may
be repeated on another replica, at most once and within the retry budget; afterwards a failure
becomes an `error` event and the stream's proper end.
"""

import asyncio

from partitiond.core.admission import Rejected
from partitiond.core.balance import RetryBudget
from partitiond.proxy.answer import Call
from partitiond.proxy.attempt import CLIENT_STALLED, Attempt
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.errors import (
    SHUTTING_DOWN,
    ApiError,
    AttemptError,
    from_failure,
    from_rejected,
)
from partitiond.proxy.live import Flight
from partitiond.proxy.metrics import ProxyMetrics


class Relay:
    """Carries requests to replicas. One per process; keeps the retry budget."""

    def __init__(self, options: ProxyOptions, metrics: ProxyMetrics) -> None:
        self._options = options
        self._metrics = metrics
        self._budget = RetryBudget(share=options.retry_share)

    async def run(self, call: Call) -> None:
        """Serve one request to its end, whatever that is, and fill in `call.result`."""
        self._budget = self._budget.after_request()
        try:
            await self._attempts(call)
        except asyncio.CancelledError:
            if not call.flight.abort_reason:
                raise
            await self._aborted(call)
        finally:
            call.flight.leave()

    async def _attempts(self, call: Call) -> None:
        flight, result = call.flight, call.result
        failure: AttemptError | None = None
        while True:
            placed = await call.model.place(flight, again=failure is not None)
            if isinstance(placed, Rejected):
                result.outcome = "refused" if failure is None else "failed"
                await self._refuse(
                    call, from_rejected(placed) if failure is None else from_failure(failure)
                )
                return
            flight.attempts += 1
            if result.queue_seconds is None:
                result.queue_seconds = flight.placed_at - flight.started_at
            result.replica_id = placed.replica_id
            try:
                await Attempt(self._options, call, placed).run()
                return
            except AttemptError as error:
                failure = error
            flight.leave()
            placed.failed()
            self._metrics.upstream_failures.labels(placed.replica_id, failure.kind).inc()
            if call.answer.started or not self._may_retry(flight, failure):
                result.outcome = "failed"
                await self._refuse(call, from_failure(failure))
                return
            self._metrics.model(call.model.route.name).retries.inc()
            flight.tried |= {placed.replica_id}

    def _may_retry(self, flight: Flight, failure: AttemptError) -> bool:
        if flight.attempts >= self._options.max_attempts or failure.kind == "total_timeout":
            return False
        budget = self._budget.after_retry()
        if budget is None:
            return False
        self._budget = budget
        return True

    async def _refuse(self, call: Call, error: ApiError) -> None:
        call.result.error = error.code or ""
        call.flight.leave()
        await self._send_error(call, error)

    async def _send_error(self, call: Call, error: ApiError) -> None:
        """A client that does not take it is let go."""
        try:
            async with asyncio.timeout(self._options.client_timeout_seconds):
                await call.answer.error(error)
        except TimeoutError:
            call.flight.abort_reason = CLIENT_STALLED

    async def _aborted(self, call: Call) -> None:
        """The flight was cancelled, for a reason of ours; the place is given back first."""
        reason, answer = call.flight.abort_reason, call.answer
        call.flight.leave()
        call.result.error = reason
        if reason == "shutting_down":
            call.result.outcome = "failed" if answer.started else "refused"
            await self._send_error(call, SHUTTING_DOWN)
        else:
            call.result.outcome = "client_gone"
