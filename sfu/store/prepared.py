"""Statements that are made once and run often: SQLAlchemy writes them, for SQLite its driver runs them.

Through SQLAlchemy a statement takes the interpreter ten times as long as SQLite takes to run it, and while
a thread has the interpreter, media waits.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, cast

from sqlalchemy import JSON, Connection, Executable
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.sql.compiler import SQLCompiler

from sfu import jsontext

Values = Mapping[str, Any]


class Found(Protocol):
    """What a statement gives back."""

    @property
    def rowcount(self) -> int:
        """How many rows were changed."""

    def fetchall(self) -> Sequence[Any]:
        """Return the rows that were found, as tuples."""


class Prepared:
    """One statement; its values have the names of its parameters."""

    def __init__(self, statement: Executable) -> None:
        self.statement = statement

    @cached_property
    def _compiled(self) -> SQLCompiler:
        compiled = cast(Any, self.statement).compile(dialect=sqlite.dialect(paramstyle="named"))
        return cast(SQLCompiler, compiled)

    @cached_property
    def _sql(self) -> str:
        return str(self._compiled)

    @cached_property
    def _json(self) -> tuple[str, ...]:
        """Names of the parameters that are documents."""
        return tuple(name for name, bind in self._compiled.binds.items() if isinstance(bind.type, JSON))

    @cached_property
    def _json_columns(self) -> frozenset[int]:
        """Places of the columns that are documents."""
        columns = getattr(self.statement, "selected_columns", ())
        return frozenset(at for at, column in enumerate(columns) if isinstance(column.type, JSON))

    def run(self, connection: Connection, values: Values | Sequence[Values]) -> Found:
        """Run it once, or for each of several rows, in the transaction of a connection.

        Raises:
            IntegrityError: a row of this key is there already.
            DBAPIError: the database does not answer, or not so.

        """
        if connection.dialect.name != "sqlite":
            found: Any = connection.execute(self.statement, values)
            return cast(Found, found)
        cursor: sqlite3.Cursor = cast(Any, connection.connection.driver_connection).cursor()
        try:
            if isinstance(values, Mapping):
                return cursor.execute(self._sql, self._plain(values, {}))
            # Several rows often hold the same document: it is written once.
            written: dict[int, str] = {}
            return cursor.executemany(self._sql, [self._plain(row, written) for row in values])
        except sqlite3.IntegrityError as error:
            raise IntegrityError(self._sql, None, error) from error
        except sqlite3.Error as error:
            raise DBAPIError(self._sql, None, error) from error

    def rows(self, connection: Connection, values: Values) -> Sequence[Any]:
        """Return what it finds, outside of a transaction; raises as `run` does."""
        found = self.run(connection, values).fetchall()
        places = self._json_columns
        if not places or connection.dialect.name != "sqlite":
            return found
        return [tuple(json.loads(v) if at in places else v for at, v in enumerate(row)) for row in found]

    def _plain(self, values: Values, written: dict[int, str]) -> Values:
        if not self._json:
            return values
        plain = dict(values)
        for name in self._json:
            document = plain[name]
            text = written.get(id(document))
            if text is None:
                text = written[id(document)] = jsontext.write(document)
            plain[name] = text
        return plain
