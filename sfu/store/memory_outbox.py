"""Webhooks and notifications in this process's memory; what `sfu/store/outbox.py` keeps in tables."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from sfu import jsontext
from sfu.store.records import DELIVERY_FIELDS, NewEvent, is_wanted, notifications_of, told_once

# Deliveries kept for each webhook, and notifications of a user.
MAX_DELIVERIES, MAX_NOTIFICATIONS = 1_000, 200


class MemoryOutbox:
    """Bounded: the oldest give way."""

    def __init__(self) -> None:
        self._webhooks: dict[str, dict[str, Any]] = {}
        self._deliveries: dict[str, deque[dict[str, Any]]] = {}
        self._notifications: dict[str, deque[dict[str, Any]]] = {}

    def keep(self, call: Mapping[str, Any], events: Sequence[NewEvent], at: str, now: float) -> None:
        """Keep what a change is to be told as."""
        for row in notifications_of(call, events, at):
            mine = self._notifications.setdefault(row["user_id"], deque(maxlen=MAX_NOTIFICATIONS))
            mine.append(jsontext.copied(row))
        for webhook in self._webhooks.values():
            for event in told_once(events):
                if is_wanted(webhook, event):
                    webhook["last_seq"] += 1
                    body = {"event_id": event.event_id, "type": event.type, "created_at": at}
                    self._deliveries[webhook["id"]].append(
                        {
                            "webhook_id": webhook["id"],
                            "seq": webhook["last_seq"],
                            "body": {**body, "data": jsontext.copied(dict(event.data))},
                            "attempts": 0,
                            "next_at": now,
                        }
                    )

    # Webhooks

    async def webhooks(self) -> list[Mapping[str, Any]]:
        return jsontext.copied(list(self._webhooks.values()))

    async def add_webhook(self, webhook: Mapping[str, Any]) -> None:
        self._webhooks[webhook["id"]] = {**jsontext.copied(dict(webhook)), "last_seq": 0}
        self._deliveries[webhook["id"]] = deque(maxlen=MAX_DELIVERIES)

    async def remove_webhook(self, webhook_id: str) -> bool:
        self._deliveries.pop(webhook_id, None)
        return self._webhooks.pop(webhook_id, None) is not None

    async def due_deliveries(self, now: float, limit: int = 50) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        for webhook_id, kept in self._deliveries.items():
            first = next((row for row in kept if row["next_at"] is not None), None)
            if first is not None and first["next_at"] <= now:
                webhook = self._webhooks[webhook_id]
                row = {name: jsontext.copied(first[name]) for name in DELIVERY_FIELDS}
                found.append({**row, "url": webhook["url"], "secret": webhook["secret"]})
        return found[:limit]

    def _row(self, delivery: Mapping[str, Any]) -> dict[str, Any] | None:
        kept = self._deliveries.get(delivery["webhook_id"], ())
        return next((row for row in kept if row["seq"] == delivery["seq"]), None)

    async def take_delivery(self, delivery: Mapping[str, Any], until: float) -> bool:
        row = self._row(delivery)
        if row is None or row["next_at"] != delivery["next_at"]:
            return False
        row["next_at"] = until
        return True

    async def note_delivery(
        self, delivery: Mapping[str, Any], *, next_at: float | None, error: str | None
    ) -> None:
        row = self._row(delivery)
        if row is not None:
            row["next_at"], row["attempts"] = next_at, delivery["attempts"] + 1

    async def replay(self, webhook_id: str, from_seq: int, now: float) -> int:
        again = [row for row in self._deliveries.get(webhook_id, ()) if row["seq"] >= from_seq]
        for row in again:
            row["next_at"], row["attempts"] = now, 0
        return len(again)

    async def tidy(self, now: float) -> None:
        """The bounds keep it tidy."""

    # Notifications

    async def notifications(self, user_id: str, *, unread: bool, limit: int) -> list[Mapping[str, Any]]:
        mine = [row for row in self._notifications.get(user_id, ()) if not (unread and row["read_at"])]
        found: list[Mapping[str, Any]] = [_seen(row) for row in reversed(mine)]
        return found[:limit]

    async def read_notification(
        self, user_id: str, notification_id: str, at: str
    ) -> Mapping[str, Any] | None:
        mine = self._notifications.get(user_id, ())
        row = next((row for row in mine if row["id"] == notification_id), None)
        if row is None:
            return None
        row["read_at"] = row["read_at"] or at
        return _seen(row)


def _seen(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: jsontext.copied(row[key]) for key in ("id", "verb", "data", "created_at", "read_at")}
