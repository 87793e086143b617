"""What delivers webhooks ends when it is told to, whatever comes at the same moment."""

import asyncio

import pytest

from sfu.calls.webhooks import WebhookSender
from sfu.settings import Webhooks

WEBHOOK = {"webhook_id": "whk_1", "seq": 1, "attempts": 0, "body": {}, "secret": "s", "next_at": 0.0}


class OneDelivery:
    """An outbox with one delivery, which is over when the test says so."""

    def __init__(self) -> None:
        self.is_noted = asyncio.Event()
        self.may_end = asyncio.Event()
        self._due = [{**WEBHOOK, "url": "http://127.0.0.1:1/refused-because-it-is-private"}]

    async def tidy(self, now):
        pass

    async def due_deliveries(self, now, limit):
        due, self._due = self._due, []
        return due

    async def take_delivery(self, delivery, until):
        return True

    async def note_delivery(self, delivery, *, next_at, error):
        self.is_noted.set()
        await self.may_end.wait()


@pytest.mark.parametrize("steps", range(8))
async def test_it_ends_when_a_delivery_is_over_at_the_same_moment(steps):
    outbox = OneDelivery()
    sender = WebhookSender(outbox, Webhooks())
    await sender.start()
    await outbox.is_noted.wait()
    outbox.may_end.set()
    for _ in range(steps):
        await asyncio.sleep(0)
    async with asyncio.timeout(2):
        await sender.close()
