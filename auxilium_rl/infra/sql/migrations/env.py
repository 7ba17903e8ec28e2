"""Alembic's entry: migrates on the connection that ``infra.sql.migrating`` hands it."""

from alembic import context

from auxilium_rl.infra.sql.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
context.run_migrations()
