"""Configures Alembic. `partitiond.store.migrate` hands over an open connection."""

from alembic import context
from sqlmodel import SQLModel

import partitiond.store.tables  # noqa: F401 - fills the metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    transactional_ddl=True,  # SQLite supports it; our transactions begin before the DDL
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
