"""Stores releases of models: part of `ports.Store` on SQLite."""

import json
from collections.abc import Sequence
from typing import Final

from partitiond import serde
from partitiond.core.errors import StoreError
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.objectives import REMOVED, with_present_objective
from partitiond.core.plan.record import Plan
from partitiond.core.replica.releases import Release, ReleaseState
from partitiond.store.sessions import Sessions

MAX_RELEASES: Final = 50
"""Releases kept of each model, newest first."""


class ReleaseRepository(Sessions):
    """The specifications that models had before."""

    def put_release(self, release: Release) -> None:
        """Add or replace by model and version; the oldest beyond the bound are dropped."""
        values = (
            *(release.model, release.version, release.at, release.state.value),
            serde.to_stored_json(release.spec),
        )
        with self._write() as connection:
            connection.execute("INSERT OR REPLACE INTO release VALUES (?, ?, ?, ?, ?)", values)
            connection.execute(
                "DELETE FROM release WHERE model = ?1 AND version <= (SELECT version FROM release "
                "WHERE model = ?1 ORDER BY version DESC LIMIT 1 OFFSET ?2)",
                (release.model, MAX_RELEASES),
            )

    def releases(self, model: str | None = None) -> Sequence[Release]:
        """Return releases of one model, or of all, newest version first."""
        rows = self._rows(
            "SELECT model, version, at, state, spec FROM release WHERE model = ifnull(?, model) "
            "ORDER BY model, version DESC",
            model,
        )
        return [found for row in rows for found in self._release(*row)]

    def _release(
        self, model: str, version: int, at: str, state_name: str, text: str
    ) -> Sequence[Release]:
        """Return the release of a row, or nothing if it cannot be read."""
        what = f"release {version} of {model}"
        try:
            state = ReleaseState(state_name)
        except ValueError as error:
            problem = f"the store {self.path} holds a {what} that cannot be read: {error}."
            self._set_aside(ModelSpec, what, StoreError(problem))
            return []
        specs = self._readable(ModelSpec, [(text, what)])
        return [Release(model, version, at, state, spec) for spec in specs]

    def forget_releases(self, model: str) -> None:
        """Delete the releases of a model that is gone."""
        with self._write() as connection:
            connection.execute("DELETE FROM release WHERE model = ?", (model,))

    def applied_plans(self, limit: int) -> Sequence[Plan]:
        """Return plans that were applied, newest first, including the present one; those that can
        be read, of present and of removed objectives.
        """
        query = "SELECT body, 'plan ' || id FROM \"plan\" ORDER BY sequence DESC LIMIT ?"
        return self._readable(Plan, ((_present(b), what) for b, what in self._rows(query, limit)))


def _present(body: str) -> str:
    """Return the body of a plan for a removed objective in a form that can be read."""
    if not any(f'"{name}"' in body for name in REMOVED):
        return body
    try:
        return json.dumps(with_present_objective(json.loads(body)))
    except ValueError:
        return body
