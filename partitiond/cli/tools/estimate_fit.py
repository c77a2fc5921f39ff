"""Implements `partitiond tools estimate --fit`: what profiles say of an estimate's constants."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from partitiond.cli.columns import new_table
from partitiond.cli.output import emit
from partitiond.core.errors import InputError
from partitiond.core.hardware.lookup import hardware_for_key
from partitiond.core.performance.factor_fit import FIGURES, FactorFit, fit_kinds
from partitiond.core.performance.transfer_fit import Source, source_of, usable_points
from partitiond.core.profile.record import ProfileKind
from partitiond.fleet.profile_files import profile_paths, read_profile
from partitiond.models.catalog import CATALOG


def sources_in(folder: Path) -> Iterator[Source]:
    """Return the measured profiles of catalog models that tell a decode step's time.

    Answers of one token or of one piece, as embeddings, have no TPOT and no decode steps.
    """
    for path in profile_paths([folder]):
        profile = read_profile(path)
        entry = CATALOG.get(profile.model)
        if entry is None or profile.kind is not ProfileKind.MEASURED or profile.variant:
            continue
        points = usable_points(profile)
        if points and all(point.tpot.p95 > 0 for point in points):
            yield source_of(profile, entry.architecture, hardware_for_key(profile.hardware))


def fit(folder: Path, *, as_json: bool) -> None:
    """Print the fit. Raises InputError: there is no profile to fit to."""
    found = fit_kinds(list(sources_in(folder)))
    if not found:
        raise InputError(
            f"{folder} has no measured profile of a catalog model with decode steps.",
            hint="Name a folder of profiles, as profiles/.",
        )
    emit(found, as_json=as_json, render=lambda: Group(*(fit_table(one) for one in found)))


def fit_table(found: FactorFit) -> RenderableType:
    """Errors of each figure, and the constants that the profiles ask for."""
    table = new_table("median absolute error", ">as shipped", ">fitted", ">left out")
    for figure in FIGURES:
        sides = (found.shipped, found.fitted, found.left_out)
        table.add_row(figure, *(f"{side[figure]:.0%}" if side else "-" for side in sides))
    counted = f"{found.profiles} profiles with decode steps, of {found.models} models"
    constants = ", ".join(f"{value:.3g} {unit}" for unit, value in found.constants.items())
    return Group(
        Text(f"{found.hardware}: {counted}", "bold"),
        table,
        Text(f"fitted: {constants}\nleft out: fitted to the other models' profiles alone"),
    )
