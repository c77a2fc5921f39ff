"""The speed of a simulated engine as planned (`planned_speed`): its step times, and neighbours.

An engine on a simulated GPU is told these with its start (`SPEED_VARIABLE`), so that what a plan
says of it, and of those beside it, can be seen.
"""

import dataclasses
import json
from typing import Any, Final

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.model.architecture import Architecture
from partitiond.core.performance.roofline import Rates, Step, step_seconds

SPEED_VARIABLE: Final = "PARTITIOND_SIMULATED_SPEED"
"""`EngineSpeed` as JSON in an engine's environment; the daemon sets it, never a user."""

SPEED_FILE: Final = "speed"
"""In the folder of a simulated host: which engine works until when."""


@dataclasses.dataclass(frozen=True, slots=True)
class RooflineSteps:
    """Step times from arithmetic and memory traffic, as in estimates.

    Attributes:
        architecture: architecture as loaded.
        reached: rates that the partition reaches.
        prompt_context: mean tokens of context that a prompt token attends to.
    """

    architecture: Architecture
    reached: Rates
    prompt_context: float

    def step_seconds(self, decoding: int, prefill_tokens: int, kv_tokens: int = 0) -> float:
        """Return the seconds of one step, or those in which its answers are sent if more."""
        step = Step(
            decode_sequences=decoding,
            decode_context=kv_tokens / max(1, decoding),
            prefill_tokens=prefill_tokens,
            prefill_context=self.prompt_context,
        )
        requests = prefill_tokens / (2 * self.prompt_context)
        sent = self.reached.sent_seconds(decoding, requests)
        return max(sent, step_seconds(self.architecture, step, self.reached))


@dataclasses.dataclass(frozen=True, slots=True)
class EngineSpeed:
    """The speed of an engine on a simulated GPU.

    Attributes:
        steps: alone on the device.
        device: whose engines slow each other down.
        mode: how they share it.
        busy: share of what they share that it takes while it works.
        kappa: loss per further engine; None for the mode's default.
    """

    steps: RooflineSteps
    device: str
    mode: SharingMode
    busy: float = 1.0
    kappa: float | None = None

    @classmethod
    def from_json(cls, text: str) -> "EngineSpeed":
        """Read it without pydantic, whose import takes as long as an engine's start."""
        data: dict[str, Any] = json.loads(text)
        steps = data.pop("steps")
        architecture, reached = Architecture(**steps["architecture"]), Rates(**steps["reached"])
        made = RooflineSteps(architecture, reached, steps["prompt_context"])
        return cls(made, **{**data, "mode": SharingMode(data["mode"])})
