"""Defines the cases: the models, their demand, and the trace that every arm gets."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench.fleet.rare import BURST_SHAPE
from loadgen import Slo, gamma, poisson
from partitiond.core.profile.record import Profile
from partitiond.fleet.profile_files import read_profile

PROFILES: Final = Path(__file__).parents[2] / "profiles"
MEASURED: Final = {
    "opt-125m": "opt-125m-*-cores-1-*",
    "smollm2-135m": "smollm2-135m-*-cores-1-160-16-2*",
}
CORES: Final = 6
MEMORY_BYTES: Final = 16 << 30


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    """One model of a case.

    Attributes:
        base: the model whose measured profile its engines follow.
    """

    name: str
    base: str
    req_per_s: float

    @property
    def profile(self) -> Profile:
        """The model's profile, measured on one core."""
        return measured(self.base)


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One workload.

    Attributes:
        seconds: length of the counted window.
        slo: bounds within which a request is good.
        warm: arms load their models before the first request comes.
        timeout_seconds: time after which a client gives up.
        cores: of the machine; each engine has one at least.
        shape: of the gamma distribution of the gaps between a model's requests; 1 is Poisson.
    """

    name: str
    about: str
    models: tuple[Model, ...]
    seconds: float
    slo: Slo
    warm: bool = True
    timeout_seconds: float = 60.0
    cores: int = CORES
    shape: float = 1.0

    def arrivals(self, model: Model) -> list[float]:
        """Arrival times of the model's requests, the same for every arm."""
        seed = 1000 + self.models.index(model)
        rate = model.req_per_s
        times = poisson(rate, seed) if self.shape == 1 else gamma(rate, self.shape, seed)
        return list(itertools.takewhile(lambda at: at < self.seconds, times))


@functools.cache
def measured(base: str) -> Profile:
    """The newest profile in the repository of that model on one core."""
    return read_profile(sorted(PROFILES.glob(f"{MEASURED[base]}.json"))[-1])


TIGHT: Final = Slo(1.5, 0.3)
"""The SLO of the profiles."""
PATIENT: Final = Slo(60.0, 0.3)
"""SLO for rarely requested models: their clients wait while the model is loaded."""

RARE_NAMES: Final = 12


def cases(scale: float = 1.0) -> Mapping[str, Case]:
    """All cases, their windows `scale` times as long as usual."""
    opt, smol = "opt-125m", "smollm2-135m"
    found = (
        Case(
            "skewed",
            "three models, one of them asked for most: 26, 11 and 5 requests/s",
            (Model("chat", opt, 26.0), Model("search", smol, 11.0), Model("tags", smol, 5.0)),
            90.0 * scale,
            TIGHT,
        ),
        Case(
            "even",
            "three models asked for alike, as equal shares serve them: 15, 10 and 10 requests/s",
            (Model("chat", opt, 15.0), Model("search", smol, 10.0), Model("tags", smol, 10.0)),
            90.0 * scale,
            TIGHT,
        ),
        Case(
            "rare",
            f"{RARE_NAMES} models, each asked for once in 90 s; good is a first token within 60 s",
            tuple(
                Model(f"rare-{n:02d}", opt if n % 2 else smol, 1 / 90) for n in range(RARE_NAMES)
            ),
            300.0 * scale,
            PATIENT,
            warm=False,
            timeout_seconds=180.0,
        ),
        Case(
            "bursty",
            f"{RARE_NAMES} models, 4 fit: 0.2 requests/s and, by Zipf, less, in BurstGPT's bursts",
            tuple(
                Model(f"bursty-{n:02d}", opt if n % 2 else smol, 0.2 / (1 + n))
                for n in range(RARE_NAMES)
            ),
            300.0 * scale,
            PATIENT,
            warm=False,
            timeout_seconds=180.0,
            cores=4,
            shape=BURST_SHAPE,
        ),
    )
    return {case.name: case for case in found}
