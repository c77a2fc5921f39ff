"""Stores releases of models: part of `Store` on SQLite."""

from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import delete
from sqlmodel import col, select

from partitiond import serde
from partitiond.core.errors import StoreError
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import Plan
from partitiond.core.replica.releases import Release, ReleaseState
from partitiond.store.sessions import Sessions
from partitiond.store.tables import PlanRow, ReleaseRow

MAX_RELEASES: Final = 50
"""Releases kept of each model, newest first."""


class ReleaseRepository(Sessions):
    """The specifications that models had before."""

    def put_release(self, release: Release) -> None:
        """Add or replace by model and version; the oldest beyond the bound are dropped."""
        row = ReleaseRow(
            model=release.model,
            version=release.version,
            at=release.at,
            state=release.state.value,
            spec=serde.to_stored_json(release.spec),
        )
        own = col(ReleaseRow.model) == release.model
        with self._write() as session:
            session.merge(row)
            session.flush()
            newest = select(ReleaseRow.version).where(own)
            versions = session.exec(newest.order_by(col(ReleaseRow.version).desc())).all()
            if len(versions) > MAX_RELEASES:
                beyond = col(ReleaseRow.version) <= versions[MAX_RELEASES]
                session.exec(delete(ReleaseRow).where(own, beyond))

    def releases(self, model: str | None = None) -> Sequence[Release]:
        """Return releases of one model, or of all, newest version first."""
        query = select(ReleaseRow).order_by(col(ReleaseRow.model), col(ReleaseRow.version).desc())
        if model is not None:
            query = query.where(ReleaseRow.model == model)
        with self._read() as session:
            return [found for row in session.exec(query).all() for found in self._release(row)]

    def _release(self, row: ReleaseRow) -> Sequence[Release]:
        """Return the release of a row, or nothing if it cannot be read."""
        what = f"release {row.version} of {row.model}"
        try:
            state = ReleaseState(row.state)
        except ValueError as error:
            problem = f"the store {self.path} holds a {what} that cannot be read: {error}."
            self._set_aside(what, StoreError(problem))
            return []
        specs = self._readable(ModelSpec, [(row.spec, what)])
        return [Release(row.model, row.version, row.at, state, spec) for spec in specs]

    def forget_releases(self, model: str) -> None:
        """Delete the releases of a model that is gone."""
        with self._write() as session:
            session.exec(delete(ReleaseRow).where(col(ReleaseRow.model) == model))

    def applied_plans(self, limit: int) -> Sequence[Plan]:
        """Return plans that were applied, newest first, including the present one."""
        query = select(PlanRow).order_by(col(PlanRow.sequence).desc()).limit(limit)
        with self._read() as session:
            return self._readable_plans(session.exec(query).all())

    def _readable_plans(self, rows: Iterable[PlanRow]) -> list[Plan]:
        """Parse the plans that can be read."""
        return self._readable(Plan, ((row.body, f"plan {row.id}") for row in rows))
