"""Calls and events in SQLite or PostgreSQL: one transaction for each change.

Locked are the row of the call while its version is checked, and those of the users, in order of their ids,
while their events are numbered.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Executable, bindparam, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError

from sfu import clock
from sfu.errors import Conflict, Unavailable
from sfu.store.lanes import Lane, PostgresLane, SqliteLane
from sfu.store.outbox import SqlOutbox
from sfu.store.prepared import Prepared, Values
from sfu.store.records import (
    MAX_EVENTS_PER_USER,
    Claim,
    Claimed,
    Engaged,
    MakeStored,
    NewEvent,
    StoredEvent,
    StoreError,
    numbered,
    timeline,
)
from sfu.store.schema import (
    call_events,
    call_users,
    calls,
    conversation_users,
    conversations,
    idempotency,
    processes,
    user_events,
    users,
)
from sfu.store.sql_recordings import SqlRecordings

# Old events of a user are deleted each time that so many new ones have come.
PRUNE_EVERY = 100

# A claim of a request that is repeated is remembered for so long.
CLAIM_S = 86_400.0

StoredT = TypeVar("StoredT", bound=StoredEvent)
T = TypeVar("T")


class SqlStore(Generic[StoredT]):
    """The whole store; `stored` makes an event that has its number."""

    def __init__(self, url: str, stored: MakeStored) -> None:
        """Check the URL; nothing is opened yet.

        Raises:
            StoreError: it is not that of a database that is known.

        """
        self._stored = stored
        self.outbox, self.recordings = SqlOutbox(self), SqlRecordings(self)
        parsed = _checked(url)
        is_sqlite = parsed.get_backend_name() == "sqlite"
        self._insert = sqlite.insert if is_sqlite else postgresql.insert
        self._count_on, self._new_people = _count_on(self._insert), _new_people(self._insert)
        self._lane: Lane = SqliteLane(parsed) if is_sqlite else PostgresLane(parsed)

    async def open(self) -> None:
        """Connect, and bring the tables up to this version.

        Raises:
            StoreError: that is not possible.

        """
        try:
            await self._lane.write(_migrate)
            await self.outbox.look()
        except (OSError, SQLAlchemyError, Unavailable) as error:
            await self.close()
            raise StoreError(_reason(error)) from error

    async def close(self) -> None:
        """Close every connection."""
        await self._lane.close()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run work in a transaction, which is kept at its end; in one that fails nothing is kept."""
        try:
            return await self._lane.write(work)
        except IntegrityError:
            raise
        except (DBAPIError, OSError) as error:
            raise Unavailable(f"The database does not answer: {_reason(error)}", code="store_away") from error

    async def rows(self, statement: Executable) -> Sequence[Any]:
        """Return what a query finds."""
        return await self._read(lambda connection: connection.execute(statement).all())

    async def _rows(self, prepared: Prepared, values: Values) -> Sequence[Any]:
        return await self._read(lambda connection: prepared.rows(connection, values))

    async def _read(self, work: Callable[[Connection], Sequence[Any]]) -> Sequence[Any]:
        try:
            return await self._lane.read(work)
        except (DBAPIError, OSError) as error:
            raise Unavailable(f"The database does not answer: {_reason(error)}", code="store_away") from error

    # Calls

    async def load(self, call_id: str) -> Mapping[str, Any] | None:
        rows = await self._rows(_LOAD, {"b_id": call_id})
        return rows[0][0] if rows else None

    async def commit(
        self,
        call: Mapping[str, Any],
        events: Sequence[NewEvent],
        *,
        at: str = "",
        due_at: float | None = None,
        claim: Claim | None = None,
        free: Sequence[str] = (),
    ) -> list[StoredT]:
        """Keep a call and its events together; see `sfu.calls.ports.CallStore`."""
        numbers = await self.keep(call, events, at=at, due_at=due_at, claim=claim, free=free)
        return numbered(self._stored, events, numbers)

    async def keep(
        self,
        call: Mapping[str, Any],
        events: Sequence[NewEvent],
        *,
        at: str,
        due_at: float | None,
        claim: Claim | None,
        free: Sequence[str],
    ) -> list[int]:
        """Do the work of `commit`; return the numbers of the events."""
        now, told = clock.unix_seconds(), timeline(call, events, at)

        def work(connection: Connection) -> list[int]:
            if claim is not None:
                self._claim(connection, claim, call["id"])
            for user_id in free:
                if _IN_A_CALL.rows(connection, {"b_user": user_id}):
                    raise Engaged
            self._keep(connection, call, events, due_at)
            if told:
                _TELL.run(connection, told)
            self.outbox.keep(connection, call, events, at, now)
            return self._append(connection, events)

        try:
            return await self.write(work)
        except IntegrityError as error:
            raise Conflict("The call was changed at the same time.") from error

    def _claim(self, connection: Connection, claim: Claim, call_id: str) -> None:
        found = _CLAIMED.rows(connection, {"b_user": claim.user_id, "b_key": claim.key})
        if found:
            raise Claimed(found[0][0])
        values = {"user_id": claim.user_id, "key": claim.key, "call_id": call_id, "at": claim.at}
        _CLAIM.run(connection, values)

    def _keep(
        self,
        connection: Connection,
        call: Mapping[str, Any],
        events: Sequence[NewEvent],
        due_at: float | None,
    ) -> None:
        is_open = call["status"] != "ended"
        values = {
            "version": call["version"],
            "status": call["status"],
            "conversation_id": call["conversation_id"],
            "due_at": due_at,
            "document": call,
        }
        people = [
            {
                "user_id": p["user_id"],
                "call_id": call["id"],
                "created_at": call["created_at"],
                "is_open": is_open,
            }
            for p in call["participants"]
        ]
        if call["version"] == 1:
            created = {"id": call["id"], "created_at": call["created_at"], **values}
            _NEW_CALL.run(connection, created)
            _NEW_USERS.run(connection, people)
            return
        changed = _CHANGE.run(connection, {**values, "b_id": call["id"], "b_version": call["version"] - 1})
        if changed.rowcount != 1:
            raise Conflict("The call was changed at the same time.")
        if not is_open:
            _CLOSE.run(connection, {"b_id": call["id"], "b_open": False})
        elif any(new.type in ("call.incoming", "call.busy") for new in events):  # somebody was invited
            self._new_people.run(connection, people)

    def _append(self, connection: Connection, events: Sequence[NewEvent]) -> list[int]:
        """Number the events of each user, and keep them."""
        counts: dict[str, int] = {}
        for new in events:
            counts[new.user_id] = counts.get(new.user_id, 0) + 1
        if not counts:
            return []
        # In order of their ids, so that nobody waits for somebody who waits for him.
        last = {
            user_id: self._count_on.run(connection, {"id": user_id, "last_seq": counts[user_id]}).fetchall()[
                0
            ][0]
            for user_id in sorted(counts)
        }
        following = {user_id: last[user_id] - count for user_id, count in counts.items()}
        numbers = []
        for new in events:
            following[new.user_id] += 1
            numbers.append(following[new.user_id])
        rows = [_event_row(event, seq) for event, seq in zip(events, numbers, strict=True)]
        _NEW_EVENTS.run(connection, rows)
        for user_id, count in counts.items():
            if last[user_id] % PRUNE_EVERY < count:
                old = user_events.c.seq <= last[user_id] - MAX_EVENTS_PER_USER
                connection.execute(user_events.delete().where(user_events.c.user_id == user_id, old))
        return numbers

    async def claimed(self, user_id: str, key: str) -> str | None:
        """Return the id of the call that a request made, if it was made before."""
        rows = await self._rows(_CLAIMED, {"b_user": user_id, "b_key": key})
        return rows[0][0] if rows else None

    async def open_calls(self, user_id: str) -> list[Mapping[str, Any]]:
        return [row[0] for row in await self._rows(_OPEN_CALLS, {"b_user": user_id})]

    async def unfinished(self) -> list[Mapping[str, Any]]:
        """Return every call that has not ended, oldest first."""
        found = select(calls.c.document).where(calls.c.status.in_(("ringing", "active")))
        return [row[0] for row in await self.rows(found.order_by(calls.c.created_at, calls.c.id))]

    async def due(self, before: float) -> list[str]:
        """Return the ids of the calls of which something was due before a moment."""
        found = select(calls.c.id).where(calls.c.due_at <= before).order_by(calls.c.due_at).limit(1_000)
        return [row[0] for row in await self.rows(found)]

    async def history(
        self,
        user_id: str,
        *,
        status: str | None = None,
        since: str | None = None,
        before: tuple[str, str] | None = None,
        limit: int = 50,
    ) -> list[Mapping[str, Any]]:
        """Return a user's calls, the newest first; `before` is the (created_at, id) of the last one seen."""
        found = select(calls.c.document).join(call_users, call_users.c.call_id == calls.c.id)
        found = found.where(call_users.c.user_id == user_id)
        if status is not None:
            found = found.where(calls.c.status == status)
        if since is not None:
            found = found.where(calls.c.created_at >= since)
        if before is not None:
            created_at, call_id = before
            same = (calls.c.created_at == created_at) & (calls.c.id < call_id)
            found = found.where((calls.c.created_at < created_at) | same)
        found = found.order_by(calls.c.created_at.desc(), calls.c.id.desc()).limit(limit)
        return [row[0] for row in await self.rows(found)]

    async def timeline(self, call_id: str) -> list[Mapping[str, Any]]:
        """Return what happened to a call, in order."""
        c = call_events.c
        found = select(c.type, c.event_id, c.at, c.data).where(c.call_id == call_id).order_by(c.number)
        return [dict(row._mapping) for row in await self.rows(found)]

    # Events

    async def events_after(self, user_id: str, seq: int) -> list[StoredT] | None:
        last = await self.last_seq(user_id)
        if seq > last:
            return None
        c = user_events.c
        found = select(user_events).where(c.user_id == user_id, c.seq > seq).order_by(c.seq)
        rows = await self.rows(found)
        events = [self._stored(**row._mapping) for row in rows]
        # More than `last` may be there by now; what is there goes up without a hole.
        return events if (not events and seq == last) or (events and events[0].seq == seq + 1) else None

    async def last_seq(self, user_id: str) -> int:
        rows = await self._rows(_LAST_SEQ, {"b_user": user_id})
        return rows[0][0] if rows else 0

    # Conversations

    async def put_conversation(self, conversation_id: str, document: Mapping[str, Any]) -> bool:
        """Keep a conversation with its `participants`; tell whether it is new."""
        people = [
            {"conversation_id": conversation_id, "user_id": user_id}
            for user_id in dict.fromkeys(document["participants"])
        ]

        def work(connection: Connection) -> bool:
            is_new = not self._forget_conversation(connection, conversation_id)
            connection.execute(insert(conversations).values(id=conversation_id, document=document))
            if people:
                connection.execute(insert(conversation_users), people)
            return is_new

        return await self.write(work)

    def _forget_conversation(self, connection: Connection, conversation_id: str) -> bool:
        mine = conversation_users.c.conversation_id == conversation_id
        connection.execute(conversation_users.delete().where(mine))
        gone = connection.execute(conversations.delete().where(conversations.c.id == conversation_id))
        return bool(gone.rowcount)

    async def conversation(self, conversation_id: str) -> Mapping[str, Any] | None:
        """Return a conversation, or None."""
        found = select(conversations.c.document).where(conversations.c.id == conversation_id)
        rows = await self.rows(found)
        return rows[0][0] if rows else None

    async def delete_conversation(self, conversation_id: str) -> bool:
        """Forget a conversation; tell whether there was one. Its calls stay."""
        return await self.write(lambda connection: self._forget_conversation(connection, conversation_id))

    # Processes

    async def beat(self, process_id: str, at: float, dead_before: float) -> list[str]:
        """Say that a process lives; return all that do, and forget those silent since a moment."""

        def work(connection: Connection) -> list[str]:
            mine = self._insert(processes).values(id=process_id, seen_at=at)
            mine = mine.on_conflict_do_update(index_elements=[processes.c.id], set_={"seen_at": at})
            connection.execute(mine)
            connection.execute(processes.delete().where(processes.c.seen_at < dead_before))
            connection.execute(idempotency.delete().where(idempotency.c.at < at - CLAIM_S))
            return [row[0] for row in connection.execute(select(processes.c.id))]

        return await self.write(work)

    async def forget_process(self, process_id: str) -> None:
        """A process ends in order: whoever was on it is on none."""
        gone = processes.delete().where(processes.c.id == process_id)
        await self.write(lambda connection: connection.execute(gone))

    async def is_there(self) -> bool:
        """Tell whether the database answers."""
        try:
            await self.rows(select(func.count()).select_from(processes))
        except Unavailable:
            return False
        return True


# Statements of every ring are made once: to make them costs more than to run them.
_LOAD = Prepared(select(calls.c.document).where(calls.c.id == bindparam("b_id")))
_OPEN_CALLS = Prepared(
    select(calls.c.document)
    .where(
        calls.c.id.in_(
            select(call_users.c.call_id).where(
                call_users.c.user_id == bindparam("b_user"), call_users.c.is_open
            )
        )
    )
    .order_by(calls.c.created_at, calls.c.id)
)
_IN_A_CALL = Prepared(
    select(call_users.c.call_id).where(call_users.c.user_id == bindparam("b_user"), call_users.c.is_open)
)
_CLAIMED = Prepared(
    select(idempotency.c.call_id).where(
        idempotency.c.user_id == bindparam("b_user"), idempotency.c.key == bindparam("b_key")
    )
)
_LAST_SEQ = Prepared(select(users.c.last_seq).where(users.c.id == bindparam("b_user")))
_CLAIM, _NEW_CALL, _NEW_USERS, _TELL, _NEW_EVENTS = (
    Prepared(insert(table)) for table in (idempotency, calls, call_users, call_events, user_events)
)
_CLOSE = Prepared(
    update(call_users).where(call_users.c.call_id == bindparam("b_id")).values(is_open=bindparam("b_open"))
)
_CHANGE = Prepared(
    update(calls)
    .where(calls.c.id == bindparam("b_id"), calls.c.version == bindparam("b_version"))
    .values(
        {name: bindparam(name) for name in ("version", "status", "conversation_id", "due_at", "document")}
    )
)


def _new_people(insert_: Any) -> Prepared:
    """Return the statement that adds people to a call, unless they are in it."""
    return Prepared(insert_(call_users).on_conflict_do_nothing())


def _count_on(insert_: Any) -> Prepared:
    """Return the statement that adds to the number of a user's last event, and returns it."""
    adding = insert_(users)
    counted = adding.on_conflict_do_update(
        index_elements=[users.c.id], set_={"last_seq": users.c.last_seq + adding.excluded.last_seq}
    )
    return Prepared(counted.returning(users.c.last_seq))


def _event_row(event: NewEvent, seq: int) -> dict[str, Any]:
    return {
        "user_id": event.user_id,
        "seq": seq,
        "event_id": event.event_id,
        "type": event.type,
        "data": event.data,
        "not_for": event.not_for,
    }


def _checked(url: str) -> URL:
    """Return the parsed URL of a database.

    Raises:
        StoreError: it is not that of a database that is known.

    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreError(f"{url!r} is no URL of a database") from error
    if parsed.drivername not in ("sqlite+aiosqlite", "postgresql+asyncpg"):
        raise StoreError(f"{parsed.drivername}: sqlite+aiosqlite and postgresql+asyncpg are known")
    if parsed.drivername == "sqlite+aiosqlite" and parsed.database in (None, "", ":memory:"):
        raise StoreError("a SQLite database is a file: sqlite+aiosqlite:///path; memory:// keeps nothing")
    return parsed


def _migrate(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", "sfu.store:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _reason(error: BaseException) -> str:
    """Return what the driver said, on one line."""
    origin = getattr(error, "orig", None) or error
    return str(origin).strip().splitlines()[0] if str(origin).strip() else type(origin).__name__
