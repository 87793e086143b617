"""Processes on one store look after each other: each says that it lives, and sees who does not any more.

Who was on a process that died, and has not come back elsewhere within the grace period, has left his calls.
Rings of which nobody takes note are ended by whoever sees them.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

import structlog

from sfu import clock, ids
from sfu.calls.call import Call
from sfu.calls.service import CallService
from sfu.calls.table import IN, Status
from sfu.errors import Unavailable
from sfu.tasks import end

log = structlog.get_logger()

# A process says so often that it lives, and is taken for dead after this silence.
BEAT_S, DEAD_S = 3.0, 12.0

# A store that takes longer to hear of it is away: everybody knows within five seconds.
ANSWER_S = 1.5


class ProcessStore(Protocol):
    """Where processes say that they live."""

    async def beat(self, process_id: str, at: float, dead_before: float) -> list[str]:
        """Say that a process lives; return all that do, and forget those silent since a moment."""

    async def forget_process(self, process_id: str) -> None:
        """A process ends in order."""


class Survivors:
    """What this process does for those that are gone."""

    def __init__(
        self,
        store: ProcessStore,
        calls: CallService,
        process_id: str,
        grace_s: float,
        is_here: Callable[[str], bool],
    ) -> None:
        # `is_here`: whether a user has a session on this process.
        self._store, self._calls, self._is_here = store, calls, is_here
        self.process_id, self._grace_s = process_id, grace_s
        # The processes on the same store, as of the last beat.
        self._alive: frozenset[str] = frozenset()
        self._keeper: asyncio.Task[None] | None = None
        # When those who were on dead processes are looked for, in the time of the loop; it is tried until
        # the store answers.
        self._miss_at = float("inf")
        # Whether the store answered last.
        self.store_is_there = True

    async def start(self) -> None:
        """Say that this process lives, from now on.

        Raises:
            Unavailable: the store does not answer.

        """
        await self._beat()
        self._miss_later()
        self._keeper = asyncio.create_task(self._keep_watch())

    async def close(self) -> None:
        """Say goodbye."""
        if self._keeper is not None:
            await end(self._keeper)
            with contextlib.suppress(Unavailable):
                await self._store.forget_process(self.process_id)

    def _miss_later(self) -> None:
        """Give those who were on a dead process time to come back to another."""
        self._miss_at = asyncio.get_running_loop().time() + self._grace_s

    async def _keep_watch(self) -> None:
        while True:
            await asyncio.sleep(min(BEAT_S, self._grace_s))
            try:
                await self._look()
                self.store_is_there = True
            except Unavailable as error:
                if self.store_is_there:
                    log.error("store_away", told=error.message)
                self.store_is_there = False
            except Exception:
                log.exception("watch_failed")

    async def _look(self) -> None:
        before = self._alive
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._beat()
        except TimeoutError as error:
            raise Unavailable(f"The database does not answer within {ANSWER_S} s.") from error
        if before - self._alive:
            self._miss_later()
        await self._calls.end_overdue()
        if asyncio.get_running_loop().time() >= self._miss_at:
            await self._miss_the_dead()
            self._miss_at = float("inf")

    async def _beat(self) -> None:
        now = clock.unix_seconds()
        self._alive = frozenset(await self._store.beat(self.process_id, now, now - DEAD_S))

    async def _miss_the_dead(self) -> None:
        """Let those leave who were on a process that is gone, and are nowhere now."""
        for call in await self._calls.unfinished():
            lost = [user_id for user_id in call.users_in(IN) if self._is_lost(call, user_id)]
            if call.status is Status.ACTIVE and lost:
                log.info("participants_lost", call_id=call.id, user_ids=lost)
                await self._calls.lose(call.id, self._is_lost)

    def _is_lost(self, call: Call, user_id: str) -> bool:
        """Whether a participant has no device on a living process; of this one's its sessions expire.

        Who has none at all took part by REST and never had media: after the grace period he is gone.
        """
        participant = call.participant(user_id)
        if participant is None or self._is_here(user_id):
            return False
        if participant.devices:
            return not {ids.process_of(device) for device in participant.devices} & self._alive
        since = call.answered_at or call.created_at
        return (clock.wallclock() - since).total_seconds() >= self._grace_s
