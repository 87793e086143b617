"""Events from hand to hand within one process."""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

EventT = TypeVar("EventT")


class MemoryBus(Generic[EventT]):
    """Every subscriber is told in turn, in the order of publishing."""

    def __init__(self) -> None:
        self._receivers: list[Callable[[EventT], Awaitable[None]]] = []

    # Nobody can be away here, and nobody is elsewhere.
    is_there = True

    async def start(self) -> None:
        """There is nothing to connect to."""

    async def close(self) -> None:
        """There is nothing to disconnect from."""

    def subscribe_remote(self, receive: Callable[[EventT], Awaitable[None]]) -> None:
        """There are no other processes."""

    def on_missed(self, missed: Callable[[], Awaitable[None]]) -> None:
        """Nothing is ever missed."""

    async def publish(self, event: EventT) -> None:
        for receive in self._receivers:
            await receive(event)

    def subscribe(self, receive: Callable[[EventT], Awaitable[None]]) -> None:
        self._receivers.append(receive)
