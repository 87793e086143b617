"""The bus in memory: everybody, in turn, in order."""

import pytest

from sfu.bus.memory import MemoryBus


async def test_every_subscriber_is_told_in_the_order_of_publishing():
    bus, heard = MemoryBus(), []

    def receiver(name):
        async def receive(event):
            heard.append((name, event))

        return receive

    bus.subscribe(receiver("first"))
    bus.subscribe(receiver("second"))
    await bus.publish(1)
    await bus.publish(2)
    assert heard == [("first", 1), ("second", 1), ("first", 2), ("second", 2)]


async def test_without_subscribers_an_event_goes_nowhere():
    await MemoryBus().publish("nobody hears")


async def test_who_publishes_hears_of_a_failure():
    bus = MemoryBus()

    async def fail(_event):
        raise RuntimeError("deaf")

    bus.subscribe(fail)
    with pytest.raises(RuntimeError, match="deaf"):
        await bus.publish(1)
