"""Makes what the planner is asked for each model, and remembers it from plan to plan."""

import asyncio
import dataclasses
from collections.abc import Sequence

from partitiond.controller.plans.changed_worlds import usable
from partitiond.controller.plans.situation import Situation
from partitiond.core.drift.correction import factor_for
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import ModelDemand
from partitiond.core.profile.record import Profile
from partitiond.planner.model.candidates import candidates_for
from partitiond.planner.model.draw import most_host_cores


@dataclasses.dataclass(frozen=True, slots=True)
class _MadeFrom:
    """All that one model's demand and candidates are made from."""

    spec: ModelSpec
    profiles: tuple[Profile, ...]
    hardware: tuple[str, ...]
    stale: tuple[tuple[str, tuple[str, ...]], ...]
    corrections: tuple[tuple[str, float], ...]
    most_cores: tuple[tuple[str, int], ...]

    def demand(self) -> ModelDemand:
        """Make the demand, in a millisecond of CPU for a model with six profiles."""
        return candidates_for(
            self.spec,
            self.profiles,
            self.hardware,
            dict(self.stale),
            dict(self.corrections),
            most_cores=dict(self.most_cores),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Known:
    made_from: _MadeFrom
    demand: ModelDemand


class KnownDemands:
    """Makes what the planner is asked, and makes it again only for models that changed."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    async def of(self, situation: Situation) -> tuple[ModelDemand, ...]:
        """Return the demands and candidates of the models that a situation plans.

        They are made in a thread, of values that do not change.
        """
        asked = _made_from(situation)
        known = dict(self._known)
        changed = [
            one
            for one in asked
            if one.spec.name not in known or known[one.spec.name].made_from != one
        ]
        if changed:
            made = await asyncio.to_thread(lambda: [_Known(one, one.demand()) for one in changed])
            known |= {one.made_from.spec.name: one for one in made}
        registered = {record.spec.name for record in situation.records}
        # A plan may leave out models that the next plan includes.
        self._known = {name: one for name, one in known.items() if name in registered}
        return tuple(known[one.spec.name].demand for one in asked)


def _made_from(situation: Situation) -> Sequence[_MadeFrom]:
    hardware = tuple(sorted({device.hardware for device in situation.devices}))
    cores = tuple(sorted(most_host_cores(situation.devices).items()))
    profiles, stale = dict(situation.profiles), dict(situation.stale)
    corrections = dict(situation.corrections)
    asked: list[_MadeFrom] = []
    for record in situation.planned:
        mine = tuple(usable(profiles[record.spec.name], record, situation))
        asked.append(
            _MadeFrom(
                record.spec,
                mine,
                hardware,
                tuple((p.id, stale[p.id]) for p in mine if p.id in stale),
                # A derived profile takes the factor of the one it was derived from.
                tuple((p.id, factor_for(corrections, p.id)) for p in mine) if corrections else (),
                cores,
            )
        )
    return asked
