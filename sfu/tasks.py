"""Work in the background that belongs to somebody, and whose turn it is."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import structlog

log = structlog.get_logger()

# After how long a task that was told to stop and goes on is told again.
AGAIN_S = 1.0


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Stop tasks and wait until they have ended.

    `asyncio.wait_for`, on which libraries build, swallows a cancellation that comes in the moment in which
    what it waits for is done (CPython issue 86296): who goes on is told again.
    """
    pending = set(tasks)  # those that have ended, too: what is called at their end comes before this returns
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_S)


class Tasks:
    """The background work of one owner: what fails is told, and nothing outlives its owner."""

    def __init__(self, failed: str) -> None:
        # The event that is logged of work that fails.
        self._failed = failed
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work in the background; its failure is logged."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error(self._failed, exc_info=error)

    async def finish(self, timeout_s: float) -> None:
        """Wait until everything is done, for so long at the most."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)

    async def cancel(self) -> None:
        """Stop everything; nothing runs afterwards."""
        await end(*self._running)


class Turns:
    """One at a time of those who want the same thing, in the order in which they came."""

    def __init__(self) -> None:
        # Name of the thing → its lock, and how many hold it or wait for it.
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def of(self, name: str) -> AsyncIterator[None]:
        """Wait until it is one's turn, and have it."""
        lock, count = self._locks.get(name) or (asyncio.Lock(), 0)
        self._locks[name] = lock, count + 1
        try:
            async with lock:
                yield
        finally:
            lock, count = self._locks[name]
            if count > 1:
                self._locks[name] = lock, count - 1
            else:
                del self._locks[name]

    def __len__(self) -> int:
        """Return how many things somebody holds or waits for."""
        return len(self._locks)
