"""What Alembic runs for each upgrade: on the connection that the store opened."""

from alembic import context

from sfu.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=False,
)
context.run_migrations()
