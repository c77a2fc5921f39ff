"""Stores API keys as JSON: what a key may do grows by fields, as models and profiles do."""

import json

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_OLD = ("label", "models", "created_at")


def _table(name: str, *columns: str) -> sa.Table:
    return op.create_table(
        name,
        sa.Column("sequence", sa.Integer(), primary_key=True, nullable=False),
        *(sa.Column(c, sa.String(), nullable=False) for c in ("id", "sha256", *columns)),
        sa.UniqueConstraint("id"),
        sa.UniqueConstraint("sha256"),
    )


def _rows() -> list[dict[str, object]]:
    query = sa.text("SELECT * FROM api_key ORDER BY sequence")
    return [dict(row) for row in op.get_bind().execute(query).mappings()]


def _replace(rows: list[dict[str, object]], *columns: str) -> None:
    """Move the rows to a new table of the same name: SQLite changes no columns in place."""
    made = _table("api_key_new", *columns)
    if rows:
        op.bulk_insert(made, rows)
    op.drop_table("api_key")
    op.rename_table("api_key_new", "api_key")


def _names(key_id: str, models: str) -> list[str]:
    try:
        return list(dict.fromkeys(json.loads(models)))
    except (ValueError, TypeError) as error:
        raise CommandError(f"the models of {key_id} are no list of names") from error


def upgrade() -> None:
    """Put label, models and creation into the body."""
    rows = _rows()
    for row in rows:
        label, models, created_at = (str(row.pop(name)) for name in _OLD)
        body = {
            "id": row["id"],
            "sha256": row["sha256"],
            # Labels could once hold any character, and lists could name a model twice.
            "label": "".join(c if c.isprintable() else " " for c in label),
            "models": _names(str(row["id"]), models),
            "created_at": created_at,
        }
        row["body"] = json.dumps(body, ensure_ascii=False)
    _replace(rows, "body")
