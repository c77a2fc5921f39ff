"""Defines how releases of models are kept, and what callers can ask of them."""

from collections.abc import Sequence
from typing import Protocol

from partitiond.core.plan.record import Plan
from partitiond.core.replica.releases import Release


class ReleaseStore(Protocol):
    """Releases, kept on disk. Every call is one transaction."""

    def put_release(self, release: Release) -> None:
        """Add or replace by model and version."""
        ...

    def releases(self, model: str | None = None) -> Sequence[Release]:
        """Return releases of one model, or of all, newest version first."""
        ...

    def forget_releases(self, model: str) -> None:
        """Delete the releases of a model that is gone."""
        ...

    def applied_plans(self, limit: int) -> Sequence[Plan]:
        """Return plans that were applied, newest first, including the present one."""
        ...


class Releases(Protocol):
    """The questions about releases, and the way back to one."""

    def history(self, model: str) -> Sequence[Release]:
        """Return the releases of a model, newest first. Raises NotFoundError."""
        ...

    async def roll_back(self, model: str, version: int | None = None) -> Release:
        """Go back to a release, by default the one before; returns the one that is to serve now.

        Raises:
            NotFoundError: there is no such model, or no such release.
            ConflictError: there is no release to go back to, or it serves already.
        """
        ...
