"""The REST interface of webhooks and notifications."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sfu import clock, ids
from sfu.api import schemas
from sfu.api.routes import Context, Endpoint
from sfu.calls.webhooks import check_url
from sfu.errors import Conflict, NotFound

Document = Mapping[str, Any]

# A host application has one or two.
MAX_WEBHOOKS = 20


class Outbox(Protocol):
    """Where webhooks and notifications are kept."""

    async def webhooks(self) -> Sequence[Document]: ...
    async def add_webhook(self, webhook: Document) -> None: ...
    async def remove_webhook(self, webhook_id: str) -> bool: ...
    async def replay(self, webhook_id: str, from_seq: int, now: float) -> int: ...
    async def notifications(self, user_id: str, *, unread: bool, limit: int) -> Sequence[Document]: ...
    async def read_notification(self, user_id: str, notification_id: str, at: str) -> Document | None: ...


class OutboxEndpoints:
    """Handlers of `/webhooks` and `/notifications`."""

    def __init__(self, outbox: Outbox, *, allow_private: bool) -> None:
        self._outbox, self._allow_private = outbox, allow_private

    def all(self) -> list[Endpoint]:
        """Return the endpoints."""
        of = "/webhooks/{webhook_id}"
        return [
            Endpoint(
                "GET",
                "/webhooks",
                "list_webhooks",
                "The webhooks.",
                self._list,
                schemas.Webhooks,
                admin=True,
            ),
            Endpoint(
                "POST",
                "/webhooks",
                "add_webhook",
                "Be told what happens to calls.",
                self._add,
                schemas.Webhook,
                schemas.AddWebhook,
                statuses=(201,),
                admin=True,
            ),
            Endpoint(
                "DELETE",
                of,
                "remove_webhook",
                "Be told no more.",
                self._remove,
                None,
                statuses=(204,),
                admin=True,
            ),
            Endpoint(
                "POST",
                of + "/replay",
                "replay_webhook",
                "Be told again.",
                self._replay,
                schemas.Replayed,
                schemas.Replay,
                body_optional=True,
                admin=True,
            ),
            Endpoint(
                "GET",
                "/notifications",
                "list_notifications",
                "My notifications.",
                self._notifications,
                schemas.Notifications,
                query=schemas.NotificationQuery,
            ),
            Endpoint(
                "POST",
                "/notifications/{notification_id}/read",
                "read_notification",
                "Note that I read it.",
                self._read,
                schemas.Notification,
                schemas.Nothing,
                body_optional=True,
            ),
        ]

    # Webhooks

    async def _list(self, _: Context) -> dict[str, Any]:
        return {"webhooks": [_without_secret(webhook) for webhook in await self._outbox.webhooks()]}

    async def _add(self, context: Context) -> dict[str, Any]:
        body: schemas.AddWebhook = context.body
        check_url(body.url, allow_private=self._allow_private)
        if len(await self._outbox.webhooks()) >= MAX_WEBHOOKS:
            raise Conflict(f"There are {MAX_WEBHOOKS} webhooks already.", code="too_many_webhooks")
        webhook = {
            "id": ids.webhook_id(),
            "url": body.url,
            "types": list(body.types),
            "secret": body.secret or secrets.token_urlsafe(32),
            "created_at": clock.timestamp(clock.wallclock()),
        }
        await self._outbox.add_webhook(webhook)
        return {**webhook, "last_seq": 0}

    async def _remove(self, context: Context) -> None:
        if not await self._outbox.remove_webhook(context.path["webhook_id"]):
            raise NotFound("There is no such webhook.", code="webhook_not_found")

    async def _replay(self, context: Context) -> dict[str, Any]:
        webhook_id = context.path["webhook_id"]
        if all(webhook["id"] != webhook_id for webhook in await self._outbox.webhooks()):
            raise NotFound("There is no such webhook.", code="webhook_not_found")
        count = await self._outbox.replay(webhook_id, context.body.from_seq, clock.unix_seconds())
        return {"deliveries": count}

    # Notifications

    async def _notifications(self, context: Context) -> dict[str, Any]:
        query: schemas.NotificationQuery = context.query
        found = await self._outbox.notifications(
            context.identity.user_id, unread=query.unread == "true", limit=query.limit
        )
        return {"notifications": [dict(notification) for notification in found]}

    async def _read(self, context: Context) -> dict[str, Any]:
        found = await self._outbox.read_notification(
            context.identity.user_id,
            context.path["notification_id"],
            clock.timestamp(clock.wallclock()),
        )
        if found is None:
            raise NotFound("There is no such notification.", code="notification_not_found")
        return dict(found)


def _without_secret(webhook: Document) -> dict[str, Any]:
    return {key: value for key, value in webhook.items() if key != "secret"}
