"""Profiles a model: sweeps on one engine, confirms on a second, and assembles the profile."""

import dataclasses
import platform
import secrets
from collections.abc import Callable
from typing import Final

from partitiond.core.errors import SpecError
from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.model.precision import engine_dtype
from partitiond.core.performance.estimate import hardware_of, prior_curve
from partitiond.core.performance.transfer_fit import Subject
from partitiond.core.profile.jobs import Progress
from partitiond.core.profile.record import Profile
from partitiond.platform.clock import SystemClock
from partitiond.ports import (
    Clock,
    EngineRunner,
    ProfileRequest,
    TelemetrySource,
)
from partitiond.profiler.assemble import MeasuredTrials, build_profile
from partitiond.profiler.search import Prior
from partitiond.profiler.sweep.bench import STALL_SECONDS, Bench
from partitiond.profiler.sweep.confirm import Confirmation, add_confirmation, aim_of
from partitiond.profiler.sweep.launch import ProfileLaunch, plan_launch, size_of, step_tokens
from partitiond.profiler.sweep.sweep import Sweep, sweep_through

START_DEADLINE_SECONDS: Final = 600.0
STOP_GRACE_SECONDS: Final = 10.0
"""Deadline of a start, which may load weights and compile kernels; grace of a stop."""


class Profiler:
    """Measures profiles. Implements `ports.ProfileRunner`.

    Args:
        engines: starts and stops the engines.
        clock: time.
        start_deadline_seconds: for an engine to become ready.
        stop_grace_seconds: between asking an engine to end and ending it.
        device_used_bytes: memory in use on a device now, by id; with it the footprint on a GPU
            is the rise of the device's used memory, without it only the peak memory of the
            engine's processes.
        telemetry: source of the device's telemetry during the windows; None leaves it out.
        stall_seconds: least silence after which an engine under load counts as hung.
    """

    def __init__(
        self,
        engines: EngineRunner,
        *,
        clock: Clock | None = None,
        start_deadline_seconds: float = START_DEADLINE_SECONDS,
        stop_grace_seconds: float = STOP_GRACE_SECONDS,
        device_used_bytes: Callable[[str], int] | None = None,
        telemetry: TelemetrySource | None = None,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self._engines = engines
        self._clock = clock or SystemClock()
        self._start_deadline = start_deadline_seconds
        self._stop_grace = stop_grace_seconds
        self._device_used_bytes = device_used_bytes
        self._telemetry = telemetry
        self._stall_seconds = stall_seconds

    async def run(self, request: ProfileRequest, progress: Callable[[Progress], None]) -> Profile:
        """Sweep, confirm what was found, and leave nothing running.

        Cancelling the task leaves no engine running. An engine that dies or hangs during a trial
        is started again below that batch. A failure after the sweep costs its own part of the
        profile and is named in its notes.

        Raises:
            InputError: the model does not fit in the memory budget.
            SpecError: the engine cannot do what is asked on this device.
            EngineError: the engine did not start, or died before anything was measured.
        """
        began, started_at = self._clock.monotonic(), self._clock.utc_iso()
        bench = self._bench(request)
        planned = plan_launch(request, f"profile-{secrets.token_hex(4)}")
        prior = prior_of(request, planned)
        progress(Progress("starting", f"starting an engine in {request.model.spec.engine.dtype}"))
        sweep = Sweep(bench, request, planned, prior=prior, tell=progress)
        await sweep_through(sweep, bench, planned, progress)
        assert sweep.report is not None  # trials were measured
        profile = build_profile(
            MeasuredTrials(
                request=request,
                planned=planned,
                report=sweep.report,
                steps=tuple(sweep.steps),
                done=sweep.done,
                started_at=started_at,
                duration_seconds=0.0,
                notes=(*sweep.notes, *_host_notes(request)),
            )
        )
        aim = aim_of(profile, request.model.spec)
        if aim is not None and (
            request.confirm_memory or request.confirm_capacity or request.paper_requests
        ):
            confirmation = Confirmation(bench, request, planned, aim, tell=progress)
            await confirmation.run()
            profile = add_confirmation(profile, confirmation)
        seconds = self._clock.monotonic() - began
        made = dataclasses.replace(profile.provenance, duration_seconds=seconds)
        return dataclasses.replace(profile, provenance=made)

    def _bench(self, request: ProfileRequest) -> Bench:
        return Bench(
            engines=self._engines,
            clock=self._clock,
            device=request.device,
            telemetry=self._telemetry,
            start_deadline_seconds=self._start_deadline,
            stop_grace_seconds=self._stop_grace,
            device_used_bytes=self._device_used_bytes,
            stall_seconds=self._stall_seconds,
        )


def prior_of(request: ProfileRequest, planned: ProfileLaunch) -> Prior | None:
    """Return the curve that a roofline predicts for this engine, from which a search starts well.

    Args:
        request: what is to be measured.
        planned: the engine that is measured.
    """
    spec, engine = request.model.spec, request.model.spec.engine
    architecture, hardware = request.model.architecture, hardware_of(request.device)
    subject = Subject(
        spec.name, architecture, hardware, size_of(request), spec.workload,
        engine_dtype(hardware, engine.dtype, architecture, engine.quantization),
        engine.quantization, engine.kv_cache_dtype, step_tokens(engine, planned.max_batch),
    )  # fmt: skip
    try:
        return prior_curve(subject, planned.max_batch) or None
    except SpecError:
        return None  # the search can do without


def _host_notes(request: ProfileRequest) -> tuple[str, ...]:
    """Note the kernel, if the device's driver is not the kernel itself."""
    if request.device.kind is DeviceKind.CPU:
        return ()
    return (f"kernel {platform.release()}",)
