"""Makes the first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _text(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.String(), nullable=False) for name in names]


def _sequence(name: str = "sequence") -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), primary_key=True, nullable=False)


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "model",
        sa.Column("name", sa.String(), primary_key=True, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        *_text("source_kind", "source_ref", "engine_kind", "created_at", "updated_at", "spec"),
    )
    op.create_table(
        "profile",
        sa.Column("id", sa.String(), primary_key=True, nullable=False),
        *_text("model", "kind", "hardware", "size", "workload", "dtype", "started_at", "body"),
    )
    op.create_index("ix_profile_model", "profile", ["model"])
    op.create_table(
        "job",
        _sequence(),
        *_text("id", "kind", "subject", "state", "updated_at", "body"),
        sa.UniqueConstraint("id"),
    )
    op.create_table("plan", _sequence(), *_text("id", "created_at", "body"))
    op.create_table(
        "event",
        _sequence("id"),
        *_text("at", "kind", "subject", "message"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "api_key",
        _sequence(),
        *_text("id", "sha256", "label", "models", "created_at"),
        sa.UniqueConstraint("id"),
        sa.UniqueConstraint("sha256"),
    )
    op.create_table(
        "counter",
        sa.Column("name", sa.String(), primary_key=True, nullable=False),
        sa.Column("value", sa.Integer(), nullable=False),
    )
