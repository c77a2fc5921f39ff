"""Adds what a running fleet leaves behind: actors of events, usage, the ledger, releases."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _text(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(), primary_key=primary_key, nullable=False)


def upgrade() -> None:
    """Make the tables; the events so far have no known actor."""
    op.add_column("event", sa.Column("actor", sa.String(), nullable=False, server_default=""))
    op.create_table(
        "usage",
        *(_text(name, primary_key=True) for name in ("hour", "key_id", "model")),
        *(
            sa.Column(name, sa.Integer(), nullable=False)
            for name in ("requests", "failed", "prompt_tokens", "output_tokens")
        ),
        *(
            sa.Column(name, sa.Float(), nullable=False)
            for name in ("engine_seconds", "device_seconds", "joules")
        ),
    )
    op.create_table(
        "ledger",
        sa.Column("sequence", sa.Integer(), primary_key=True, nullable=False),
        *(_text(name) for name in ("at", "model", "replica_id", "body")),
    )
    op.create_index("ix_ledger_model", "ledger", ["model"])
    op.create_table(
        "release",
        _text("model", primary_key=True),
        sa.Column("version", sa.Integer(), primary_key=True, nullable=False),
        *(_text(name) for name in ("at", "state", "spec")),
    )
