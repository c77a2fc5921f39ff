"""Computes the speed that simulated engines are told; they themselves import no estimates."""

import dataclasses
import json

from partitiond.core.hardware.kinds import Device, DeviceKind
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.spec import ModelSpec
from partitiond.core.performance.engine_speed import SPEED_VARIABLE, EngineSpeed, RooflineSteps
from partitiond.core.performance.estimate import hardware_of
from partitiond.core.performance.roofline import prompt_context
from partitiond.core.performance.transfer_fit import subject_of


def steps_of(
    spec: ModelSpec, architecture: Architecture, device: Device, size: PartitionSize, dtype: str
) -> RooflineSteps:
    """Return the step times that an estimate rests on.

    Args:
        spec: the form of the model that runs (`ModelSpec.as_variant`).
        architecture: of that form, before its precision is applied.
        device: of the engine.
        size: of its partition.
        dtype: in which it runs.
    """
    rounds = subject_of(spec, architecture, hardware_of(device), size, dtype).rounds
    return RooflineSteps(rounds.architecture, rounds.reached, prompt_context(spec.workload))


def speed_environment(
    spec: ModelSpec,
    architecture: Architecture,
    *,
    device: Device,
    size: PartitionSize,
    dtype: str,
    busy: float = 1.0,
    kappa: float | None = None,
) -> tuple[tuple[str, str], ...]:
    """Return the variable that tells a simulated engine on a GPU its speed; none for others.

    Args:
        spec, architecture, device, size, dtype: as in `steps_of`.
        busy, kappa: as in `EngineSpeed`.
    """
    if spec.engine_kind != "simulated" or device.kind is not DeviceKind.GPU:
        return ()
    steps = steps_of(spec, architecture, device, size, dtype)
    speed = EngineSpeed(steps, device.id, size.mode, busy, kappa)
    return ((SPEED_VARIABLE, json.dumps(dataclasses.asdict(speed))),)
