"""Events between processes, through one Redis stream.

Every event is in the store before it comes here, so the stream only has to be fast: who missed
something reads it again in the store. While Redis is away, events of this process go on to its own
sockets; those for others wait here, and when it is back everybody looks whether something is missing.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from sfu.tasks import end

log = structlog.get_logger()

EventT = TypeVar("EventT")

STREAM = "sfu:events"

# Entries kept in the stream, about: what a process reads again after a short cut.
STREAM_LENGTH = 10_000

# Events that wait for Redis; beyond, the oldest go, and the others are told to look into the store.
MAX_WAITING = 20_000

# Events sent in one round trip.
BATCH = 200

# How long a read waits for news, and how long between attempts to reach Redis.
BLOCK_S, RETRY_S, MAX_RETRY_S = 5.0, 0.1, 2.0

# An entry without an event: whoever reads it may have missed some.
_RESYNC = b"resync"


class RedisBus(Generic[EventT]):
    """The bus of one process; `name` tells its own entries from those of others."""

    def __init__(
        self, url: str, name: str, encode: Callable[[EventT], bytes], decode: Callable[[bytes], EventT]
    ) -> None:
        """Remember the URL; nothing is connected yet.

        Raises:
            ValueError: it is no URL of a Redis.

        """
        self._name, self._encode, self._decode = name.encode(), encode, decode
        timeout = BLOCK_S + 5
        self._redis = Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=2)
        self._receivers: list[Callable[[EventT], Awaitable[None]]] = []
        self._remote: list[Callable[[EventT], Awaitable[None]]] = []
        self._missed: list[Callable[[], Awaitable[None]]] = []
        self._waiting: deque[bytes] = deque()
        self._has_waiting, self._is_sent = asyncio.Event(), asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        # Whether sending and receiving worked last.
        self._sends, self._receives = False, False

    @property
    def is_there(self) -> bool:
        """Whether Redis answers."""
        return self._sends and self._receives

    async def start(self) -> None:
        """Begin to send and to receive; an absent Redis is waited for."""
        self._push(_RESYNC)  # shows whether sending works
        self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._receive())]

    async def close(self) -> None:
        """Send what waits, if that is quick, and disconnect."""
        if self._tasks and self._sends:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._is_sent.wait()
        await end(*self._tasks)
        with contextlib.suppress(RedisError, OSError):
            await self._redis.aclose()

    def subscribe(self, receive: Callable[[EventT], Awaitable[None]]) -> None:
        """Tell `receive` of every event from now on, of this process and of others."""
        self._receivers.append(receive)

    def subscribe_remote(self, receive: Callable[[EventT], Awaitable[None]]) -> None:
        """Tell `receive` of the events of other processes only."""
        self._remote.append(receive)

    def on_missed(self, missed: Callable[[], Awaitable[None]]) -> None:
        """Call `missed` when events of others may have been lost on the way."""
        self._missed.append(missed)

    async def publish(self, event: EventT) -> None:
        """Tell this process at once, and the others as soon as Redis takes it."""
        self._push(self._encode(event))
        for receive in self._receivers:
            await receive(event)

    def _push(self, entry: bytes) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self._waiting[0] = _RESYNC
        self._waiting.append(entry)
        self._has_waiting.set()
        self._is_sent.clear()

    # Sending

    async def _send(self) -> None:
        retry_s = RETRY_S
        while True:
            await self._has_waiting.wait()
            batch = [self._waiting[index] for index in range(min(BATCH, len(self._waiting)))]
            try:
                async with self._redis.pipeline(transaction=False) as pipe:
                    for entry in batch:
                        fields: dict[Any, Any] = {b"from": self._name, b"event": entry}
                        pipe.xadd(STREAM, fields, maxlen=STREAM_LENGTH, approximate=True)
                    await pipe.execute()
            except (RedisError, OSError) as error:
                if self._sends:
                    log.warning("bus_away", told=str(error))
                self._sends = False
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, MAX_RETRY_S)
                continue
            # A batch that came through half is sent again whole: whoever has an event ignores it.
            for _ in batch:
                self._waiting.popleft()
            if not self._waiting:
                self._has_waiting.clear()
                self._is_sent.set()
            self._sends, retry_s = True, RETRY_S

    # Receiving

    async def _receive(self) -> None:
        last, retry_s = b"", RETRY_S
        while True:
            try:
                if not self._receives:
                    last = last or await self._newest()
                    self._receives = True
                    await self._tell_missed()
                found: Any = await self._redis.xread({STREAM: last}, count=BATCH, block=int(BLOCK_S * 1000))
                retry_s = RETRY_S
            except (RedisError, OSError) as error:
                if self._receives:
                    log.warning("bus_away", told=str(error))
                self._receives = False
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, MAX_RETRY_S)
                continue
            for _, entries in found:
                for entry_id, fields in entries:
                    last = entry_id
                    if fields.get(b"from") != self._name:
                        await self._take(fields[b"event"])

    async def _newest(self) -> bytes:
        """Return the id of the last entry in the stream."""
        entries: Any = await self._redis.xrevrange(STREAM, count=1)
        return bytes(entries[0][0]) if entries else b"0-0"

    async def _take(self, entry: bytes) -> None:
        try:
            if entry == _RESYNC:
                await self._tell_missed()
                return
            event = self._decode(entry)
            for receive in (*self._receivers, *self._remote):
                await receive(event)
        except Exception:
            log.exception("bus_entry_failed")

    async def _tell_missed(self) -> None:
        for missed in self._missed:
            try:
                await missed()
            except Exception:
                log.exception("bus_catch_up_failed")
