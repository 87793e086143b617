"""The steps by which the tables come about; Alembic runs them when the server starts."""
