"""Ways to a database: SQLite, and PostgreSQL.

SQLite has one writer at a time, for whom transactions queue up. In PostgreSQL the rows are the locks.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

import structlog
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

log = structlog.get_logger()

# Connections to PostgreSQL.
POOL = 10

# A step of a call changes 17 pages of SQLite's 4 KiB, each by a row or so, or 18 of 2 KiB: half for the
# disk to take, and of 200 rings a second the slowest hundredth is a quarter faster. A file that is there
# already keeps its size of page.
PAGE_BYTES = 2048

# After so many transactions what SQLite has logged is brought into its file; more than so many pages do not
# stay in the log.
TIDY_WRITES, MAX_LOG_FRAMES = 100, 32_000

# So many transactions go on beside a disk that does not end taking it in. Those after them wait for it:
# else the log would grow as long as the disk hangs.
MAX_WRITES_BESIDE = 10_000

# How long SQLite waits for another process that writes.
BUSY_S = 5

# Who waits for another process that writes looks again so soon; after so long he lets others read meanwhile,
# and looks less often. SQLite itself waits longer each time, up to 100 ms, where a transaction takes a third
# of one.
SOON_S, SHORT_S, LATER_S = 0.000_1, 0.005, 0.002

T = TypeVar("T")


class Lane(Protocol):
    """A way to the database: one transaction, or one query, at a time."""

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run work in a transaction, which is kept at its end."""

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run work that only reads, outside of a transaction."""

    async def close(self) -> None:
        """Close every connection."""


class PostgresLane:
    """Many connections; the rows are the locks."""

    def __init__(self, url: URL) -> None:
        self._engine = create_async_engine(url, pool_size=POOL, max_overflow=0, pool_pre_ping=True)
        self._reader = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    async def write(self, work: Callable[[Connection], T]) -> T:
        async with self._engine.begin() as connection:
            return await connection.run_sync(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        async with self._reader.connect() as connection:
            return await connection.run_sync(work)

    async def close(self) -> None:
        await self._engine.dispose()


class SqliteLane:
    """A connection that writes and one that reads, used on the thread that asks.

    A transaction takes a fifth of a millisecond. To hand it to a thread takes as long, and there each of its
    statements waits for the interpreter again.
    """

    def __init__(self, url: URL) -> None:
        url = url.set(drivername="sqlite+pysqlite")
        options: dict[str, Any] = {"max_overflow": 0, "connect_args": {"check_same_thread": False}}
        self._writer = create_engine(url, pool_size=1, **options)
        self._reader = create_engine(url, pool_size=2, isolation_level="AUTOCOMMIT", **options)
        for engine in (self._writer, self._reader):
            event.listen(engine, "connect", _prepare_sqlite)
        event.listen(self._writer, "connect", _do_not_wait)
        # One writes at a time, also while another process keeps him waiting.
        self._turn = asyncio.Lock()
        self._tidying = ThreadPoolExecutor(1, "sfu-store-tidy")
        self._writes = 0
        self._tidier: asyncio.Task[None] | None = None
        self._open: dict[Engine, Connection] = {}

    async def write(self, work: Callable[[Connection], T]) -> T:
        asked = time.monotonic()
        if self._tidier is not None and self._writes >= MAX_WRITES_BESIDE:
            await asyncio.wait([self._tidier])
        async with self._turn:
            with self._on(self._writer) as connection:
                await _begin_immediate(connection, asked)
                with connection.begin():
                    result = work(connection)
        self._writes += 1
        if self._writes >= TIDY_WRITES and (self._tidier is None or self._tidier.done()):
            self._tidier, self._writes = asyncio.create_task(self._tidy()), 0
        return result

    async def _tidy(self) -> None:
        """Bring what was logged into the file, beside who writes: he would wait for the disk."""
        loop = asyncio.get_running_loop()
        try:
            frames = await loop.run_in_executor(self._tidying, self._checkpoint, "PASSIVE")
            if frames > MAX_LOG_FRAMES:  # it never caught up: now he does wait, a little
                async with self._turn:
                    await loop.run_in_executor(self._tidying, self._checkpoint, "RESTART")
        except SQLAlchemyError as error:
            log.warning("store_not_tidied", error=str(error))

    def _checkpoint(self, how: str) -> int:
        """Bring what was logged into the file; return the frames that are in the log."""
        with self._reader.connect() as connection:
            _, frames, _ = connection.exec_driver_sql(f"PRAGMA wal_checkpoint({how})").one()
            return int(frames)

    async def read(self, work: Callable[[Connection], T]) -> T:
        with self._on(self._reader) as connection:
            return work(connection)

    @contextmanager
    def _on(self, engine: Engine) -> Iterator[Connection]:
        """Give the connection of an engine; one that fails is not used again."""
        connection = self._open.get(engine)
        if connection is None:
            connection = self._open[engine] = engine.connect()
        try:
            yield connection
            if connection.in_transaction():  # SQLAlchemy began one for a query
                connection.rollback()
        except IntegrityError:
            raise
        except DBAPIError:
            del self._open[engine]
            connection.invalidate()
            connection.close()
            raise

    async def close(self) -> None:
        if self._tidier is not None:
            await self._tidier
        async with self._turn:
            await asyncio.to_thread(self._tidying.shutdown)
            for connection in self._open.values():
                connection.close()
            self._open.clear()
            self._writer.dispose()
            self._reader.dispose()


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    """Let readers go on beside the writer, and leave the beginning of transactions to us."""
    connection.isolation_level = None
    cursor = connection.cursor()
    busy = f"busy_timeout={BUSY_S * 1000}"
    page = f"page_size={PAGE_BYTES}"
    for pragma in (page, "journal_mode=WAL", "synchronous=NORMAL", busy, "wal_autocheckpoint=0"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


async def _begin_immediate(connection: Connection, asked: float) -> None:
    """Begin a transaction that was asked for at some time, once no other process writes.

    Raises:
        DBAPIError: another process writes for too long.

    """
    driver = cast(sqlite3.Connection, connection.connection.driver_connection)
    began = time.monotonic()
    while True:
        try:
            driver.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.Error as error:
            is_busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            now = time.monotonic()
            if not is_busy or now - asked > BUSY_S:
                raise DBAPIError("BEGIN IMMEDIATE", None, error) from error
        if now - began < SHORT_S:
            # Not asyncio's sleep: the clocks of its loops have a grain of a millisecond.
            time.sleep(SOON_S)  # noqa: ASYNC251
        else:
            await asyncio.sleep(LATER_S)


def _do_not_wait(connection: Any, _record: Any) -> None:
    """Let `_begin_immediate` wait for other processes, and nothing after it has to."""
    connection.execute("PRAGMA busy_timeout=0")
