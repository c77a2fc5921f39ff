"""Gives simulated engines the step times and host costs that were fitted to recorded requests.

`python -m bench.simulator.agreement` records requests to real engines, fits, and writes the file
that `read_fitted` reads. Engines of models that are not in the file keep their estimate.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

from partitiond.core.errors import InputError
from partitiond.core.plan.record import Placement
from partitiond.core.profile.confirmed import StepTime
from partitiond.platform.bounded_files import content
from partitiond.serde import from_stored_json
from partitiond.simulated.fleet.engine_model import EngineModel, EngineOf
from partitiond.simulated.fleet.host_costs import HostCosts
from partitiond.simulated.steps import FittedSteps


@dataclasses.dataclass(frozen=True, slots=True)
class FittedHost:
    """Parameters of one host's engines.

    Attributes:
        steps: step times by model, one engine alone on its host.
        costs: host costs by model.
        kappa: factor by which each further engine at work slows the others down.
        cpu_share: cores that client and proxy use without requests.
    """

    steps: Mapping[str, StepTime]
    costs: Mapping[str, HostCosts]
    kappa: float
    cpu_share: float = 0.0

    def steps_of(self, model: str) -> FittedSteps:
        """Return a model's step times in the form that simulated engines use."""
        return FittedSteps(self.steps[model], math.inf)

    def applied(self, engine_of: EngineOf) -> EngineOf:
        """Return engines with these step times, costs and slowdown, and otherwise unchanged."""

        def found(placement: Placement) -> EngineModel:
            behaves, model = engine_of(placement), placement.model
            if model not in self.steps:
                return behaves
            costs = self.costs.get(model, behaves.costs)
            return dataclasses.replace(
                behaves, steps=self.steps_of(model), costs=costs, kappa=self.kappa
            )

        return found


def read_fitted(path: Path) -> FittedHost:
    """Read fitted parameters.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    text = content(path, "`python -m bench.simulator.agreement` writes it.")
    try:
        return from_stored_json(FittedHost, text)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", hint=error.hint) from error
