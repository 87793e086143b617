"""What is told to others beside the users' sockets: webhooks of the host application, and notifications.

Rows of both are kept in the transaction that changes the call: what happened is told, and what is told
happened.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Executable, delete, func, insert, select, update

from sfu.store.prepared import Prepared
from sfu.store.records import (
    DELIVERY_FIELDS,
    KEPT_DELIVERIES_S,
    NewEvent,
    is_wanted,
    notifications_of,
    told_once,
)
from sfu.store.schema import deliveries, notifications, webhooks

T = TypeVar("T")

_NOTIFY = Prepared(insert(notifications))


class Database(Protocol):
    """What the store gives to this part of it."""

    async def write(self, work: Callable[[Connection], T]) -> T: ...
    async def rows(self, statement: Executable) -> Sequence[Any]: ...


class SqlOutbox:
    """Webhooks and notifications in the tables of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # The webhooks there are, as of the last look; another process may have added one since.
        self._webhooks: list[Mapping[str, Any]] = []

    async def look(self) -> None:
        """See which webhooks there are."""
        self._webhooks = await self.webhooks()

    def keep(
        self,
        connection: Connection,
        call: Mapping[str, Any],
        events: Sequence[NewEvent],
        at: str,
        now: float,
    ) -> None:
        """Keep what a change is to be told as."""
        rows = notifications_of(call, events, at)
        if rows:
            _NOTIFY.run(connection, rows)
        for webhook in self._webhooks:
            wanted = [event for event in told_once(events) if is_wanted(webhook, event)]
            if not wanted:
                continue
            counted = update(webhooks).where(webhooks.c.id == webhook["id"])
            counted = counted.values(last_seq=webhooks.c.last_seq + len(wanted)).returning(
                webhooks.c.last_seq
            )
            last = connection.execute(counted).scalar_one_or_none()
            if last is None:  # it was deleted by another process
                continue
            told = [
                {
                    "webhook_id": webhook["id"],
                    "seq": last - len(wanted) + 1 + index,
                    "body": {"event_id": e.event_id, "type": e.type, "created_at": at, "data": dict(e.data)},
                    "attempts": 0,
                    "next_at": now,
                    "created_at": now,
                    "error": None,
                }
                for index, e in enumerate(wanted)
            ]
            connection.execute(insert(deliveries), told)

    # Webhooks

    async def webhooks(self) -> list[Mapping[str, Any]]:
        """Return all of them, the oldest first."""
        found = select(webhooks).order_by(webhooks.c.created_at, webhooks.c.id)
        return [dict(row._mapping) for row in await self._database.rows(found)]

    async def add_webhook(self, webhook: Mapping[str, Any]) -> None:
        new = insert(webhooks).values({**webhook, "last_seq": 0})
        await self._database.write(lambda connection: connection.execute(new))
        await self.look()

    async def remove_webhook(self, webhook_id: str) -> bool:
        """Forget a webhook and all it was to be told; tell whether there was one."""

        def work(connection: Connection) -> bool:
            connection.execute(delete(deliveries).where(deliveries.c.webhook_id == webhook_id))
            return bool(connection.execute(delete(webhooks).where(webhooks.c.id == webhook_id)).rowcount)

        is_gone = await self._database.write(work)
        await self.look()
        return is_gone

    async def due_deliveries(self, now: float, limit: int = 50) -> list[Mapping[str, Any]]:
        """Return the first undelivered of each webhook, if its time has come, with `url` and `secret`."""
        c = deliveries.c
        first = (
            select(c.webhook_id, func.min(c.seq).label("seq"))
            .where(c.next_at.is_not(None))
            .group_by(c.webhook_id)
            .subquery()
        )
        found = (
            select(*(c[name] for name in DELIVERY_FIELDS), webhooks.c.url, webhooks.c.secret)
            .join(first, (first.c.webhook_id == c.webhook_id) & (first.c.seq == c.seq))
            .join(webhooks, webhooks.c.id == c.webhook_id)
            .where(c.next_at <= now)
            .limit(limit)
        )
        return [dict(row._mapping) for row in await self._database.rows(found)]

    async def take_delivery(self, delivery: Mapping[str, Any], until: float) -> bool:
        """Keep others from delivering this for a while; False: another process was first."""
        c = deliveries.c
        mine = update(deliveries).where(
            c.webhook_id == delivery["webhook_id"], c.seq == delivery["seq"], c.next_at == delivery["next_at"]
        )
        return bool(await self._changed(mine.values(next_at=until)))

    async def note_delivery(
        self, delivery: Mapping[str, Any], *, next_at: float | None, error: str | None
    ) -> None:
        """Note how a delivery went: when to try again, or None for never."""
        c = deliveries.c
        it = update(deliveries).where(c.webhook_id == delivery["webhook_id"], c.seq == delivery["seq"])
        values = {"next_at": next_at, "attempts": delivery["attempts"] + 1, "error": error}
        await self._changed(it.values(values))

    async def replay(self, webhook_id: str, from_seq: int, now: float) -> int:
        """Deliver again what is kept from a number on; return how many that are."""
        c = deliveries.c
        again = update(deliveries).where(c.webhook_id == webhook_id, c.seq >= from_seq)
        return await self._changed(again.values(next_at=now, attempts=0, error=None))

    async def tidy(self, now: float) -> None:
        """Forget what was delivered long ago, and see which webhooks there are."""
        c = deliveries.c
        old = delete(deliveries).where(c.next_at.is_(None), c.created_at < now - KEPT_DELIVERIES_S)
        await self._changed(old)
        await self.look()

    async def _changed(self, statement: Executable) -> int:
        """Run one statement in a transaction of its own; return how many rows it changed."""

        def work(connection: Connection) -> int:
            found: Any = connection.execute(statement)
            return int(found.rowcount)

        return await self._database.write(work)

    # Notifications

    async def notifications(self, user_id: str, *, unread: bool, limit: int) -> list[Mapping[str, Any]]:
        """Return a user's notifications, the newest first."""
        c = notifications.c
        found = select(c.id, c.verb, c.data, c.created_at, c.read_at).where(c.user_id == user_id)
        if unread:
            found = found.where(c.read_at.is_(None))
        found = found.order_by(c.created_at.desc(), c.id.desc()).limit(limit)
        return [dict(row._mapping) for row in await self._database.rows(found)]

    async def read_notification(
        self, user_id: str, notification_id: str, at: str
    ) -> Mapping[str, Any] | None:
        """Note that a notification was read; return it, None if there is none of this user."""
        c = notifications.c
        mine = (c.id == notification_id) & (c.user_id == user_id)
        unread = update(notifications).where(mine, c.read_at.is_(None))
        await self._changed(unread.values(read_at=at))
        found = select(c.id, c.verb, c.data, c.created_at, c.read_at).where(mine)
        rows = await self._database.rows(found)
        return dict(rows[0]._mapping) if rows else None
