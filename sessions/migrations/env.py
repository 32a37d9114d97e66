"""Run by Alembic, on the connection that ``sessions.migrations.upgrade`` was given."""

from alembic import context

from sessions.models import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter most things in place; batches rebuild the table instead.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
