"""Recordings and their audit trails in the tables of a store."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Executable, insert, select, update

from sfu.store.recordings import ERASABLE, Document, Wanted, changed, columns, entry
from sfu.store.schema import call_users, recording_audit, recordings

T = TypeVar("T")


class Database(Protocol):
    """What the store gives to this part of it."""

    async def write(self, work: Callable[[Connection], T]) -> T: ...
    async def rows(self, statement: Executable) -> Sequence[Any]: ...


class SqlRecordings:
    """Recordings in a table of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, document: Document) -> None:
        """Keep a new recording."""

        def work(connection: Connection) -> None:
            connection.execute(insert(recordings), columns(document))

        await self._database.write(work)

    async def change(
        self, recording_id: str, changes: Document, *, unless: tuple[str, ...] = ()
    ) -> Document | None:
        """Keep changes of a recording."""
        c = recordings.c

        def work(connection: Connection) -> Document | None:
            this = select(c.document).where(c.id == recording_id).with_for_update()
            row = connection.execute(this).first()
            if row is None:
                return None
            document = changed(row[0], changes, unless)
            connection.execute(update(recordings).where(c.id == recording_id).values(columns(document)))
            return document

        return await self._database.write(work)

    async def get(self, recording_id: str) -> Document | None:
        """Return a recording, or None."""
        rows = await self._database.rows(select(recordings.c.document).where(recordings.c.id == recording_id))
        return rows[0][0] if rows else None

    async def find(self, wanted: Wanted) -> list[Document]:
        """Return recordings, the newest first."""
        c = recordings.c
        found = select(c.document)
        for column, value in ((c.call_id, wanted.call_id), (c.state, wanted.state)):
            if value is not None:
                found = found.where(column == value)
        if wanted.user_id is not None:
            of = select(call_users.c.call_id).where(call_users.c.user_id == wanted.user_id)
            found = found.where(c.call_id.in_(of))
        if wanted.since is not None:
            found = found.where(c.created_at >= wanted.since)
        if wanted.until is not None:
            found = found.where(c.created_at < wanted.until)
        if wanted.before is not None:
            at, last = wanted.before
            found = found.where((c.created_at < at) | ((c.created_at == at) & (c.id < last)))
        found = found.order_by(c.created_at.desc(), c.id.desc()).limit(wanted.limit)
        return [row[0] for row in await self._database.rows(found)]

    async def overdue(self, at: str, limit: int) -> list[Document]:
        """Return recordings that were to be kept until before a time, and are not held."""
        c = recordings.c
        found = select(c.document).where(c.keep_until < at, c.state.in_(ERASABLE))
        return [row[0] for row in await self._database.rows(found.order_by(c.keep_until).limit(limit))]

    async def note(
        self, recording_id: str, *, at: str, action: str, user_id: str, detail: Document
    ) -> Document:
        """Add an entry to the audit trail of a recording."""
        c, told = recording_audit.c, {"at": at, "action": action, "user_id": user_id, "detail": dict(detail)}

        def work(connection: Connection) -> Document:
            # The recording's row is the lock of its trail.
            lock = select(recordings.c.id).where(recordings.c.id == recording_id).with_for_update()
            connection.execute(lock).first()
            last = select(recording_audit).where(c.recording_id == recording_id).order_by(c.n.desc()).limit(1)
            row = connection.execute(last).mappings().first()
            made = entry(dict(row) if row is not None else None, recording_id, told)
            connection.execute(insert(recording_audit), made)
            return made

        return await self._database.write(work)

    async def trail(self, recording_id: str) -> list[Document]:
        """Return the audit trail of a recording, in order."""
        c = recording_audit.c
        rows = await self._database.rows(
            select(recording_audit).where(c.recording_id == recording_id).order_by(c.n)
        )
        return [dict(row._mapping) for row in rows]
