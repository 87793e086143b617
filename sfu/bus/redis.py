"""Events between processes, through Redis streams: each process writes its own, and reads all others.

Every event is in the store before it comes here, so the streams only have to be fast: who missed something
reads it again in the store. While Redis is away, events of this process go on to its own sockets; those for
others wait here, and when it is back everybody looks whether something is missing.

Who is there says so now and then in a stream that all read. A process that is heard of anew is read from
then on, and one that is silent no more.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from sfu.tasks import end

log = structlog.get_logger()

EventT = TypeVar("EventT")

# In braces is what a cluster places streams by: one read asks for all of them.
HELLOS = b"{sfu}:hellos"
EVENTS = b"{sfu}:events:"

# Entries kept in a stream, about: what a process reads again after a short cut.
STREAM_LENGTH, HELLOS_LENGTH = 10_000, 1_000

# How often a process says that it is there, how long it is believed, and what it wrote is kept.
HELLO_S, SILENT_S, KEPT_S = 20.0, 65.0, 600

# Events that wait for Redis; beyond, the oldest go, and the others are told to look into the store.
MAX_WAITING = 20_000

# Events of one entry, and entries that are read at once.
BATCH = 200

# How long a read waits for news, how long Redis may take for an answer, and how long it is between attempts.
BLOCK_S, ANSWER_S, RETRY_S, MAX_RETRY_S = 5.0, 5.0, 0.1, 2.0

# In the place of an event: whoever reads it may have missed some.
_RESYNC = b"resync"


class RedisBus(Generic[EventT]):
    """The bus of one process, of a name that no other has."""

    def __init__(
        self, url: str, name: str, encode: Callable[[EventT], bytes], decode: Callable[[bytes], EventT]
    ) -> None:
        """Remember the URL; nothing is connected yet.

        Raises:
            ValueError: it is no URL of a Redis.

        """
        self._name, self._encode, self._decode = name.encode(), encode, decode
        # Streams that are read, each with the id of the last entry that was; and, by Redis' clock in ms,
        # when each process was heard last, and when this one began to read.
        self._places: dict[bytes, bytes] = {}
        self._heard: dict[bytes, int] = {}
        self._began = 0
        # Its own timeout would make a task of each command, and its own retries hide that Redis is away.
        never = Retry(NoBackoff(), 0)
        self._redis = Redis.from_url(url, socket_timeout=None, socket_connect_timeout=2, retry=never)
        # One connection each, which is not given back after every command.
        self._writer, self._reader = self._redis.client(), self._redis.client()
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
        self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._receive())]

    async def close(self) -> None:
        """Send what waits, if that is quick, and disconnect."""
        if self._tasks and self._sends:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._is_sent.wait()
        await end(*self._tasks)
        for client in (self._writer, self._reader, self._redis):
            with contextlib.suppress(RedisError, OSError):
                await client.aclose()

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
        retry_s, hello_at, is_kept = RETRY_S, 0.0, False
        batch: list[bytes] = []
        loop = asyncio.get_running_loop()
        while True:
            # A batch of which it is not known whether it came through is sent again: whoever has an event
            # ignores it.
            batch = batch or [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            try:
                async with asyncio.timeout(ANSWER_S):
                    is_due = not self._sends or loop.time() >= hello_at
                    if is_due:
                        await self._say_hello()
                        hello_at = loop.time() + HELLO_S
                    if batch:
                        await self._write(batch)
                    if is_due or not is_kept:
                        is_kept = bool(await self._writer.expire(EVENTS + self._name, KEPT_S))
            except (RedisError, OSError) as error:
                if self._sends:
                    log.warning("bus_away", told=str(error) or type(error).__name__)
                self._sends = False
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, MAX_RETRY_S)
                continue
            self._sends, retry_s, batch = True, RETRY_S, []
            if not self._waiting:
                self._has_waiting.clear()
                self._is_sent.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(hello_at):
                        await self._has_waiting.wait()

    async def _write(self, batch: list[bytes]) -> None:
        fields: dict[Any, Any] = {b"%d" % number: event for number, event in enumerate(batch)}
        await self._writer.xadd(EVENTS + self._name, fields, maxlen=STREAM_LENGTH, approximate=True)

    async def _say_hello(self) -> None:
        await self._writer.xadd(HELLOS, {b"from": self._name}, maxlen=HELLOS_LENGTH, approximate=True)

    # Receiving

    async def _receive(self) -> None:
        retry_s = RETRY_S
        while True:
            try:
                if not self._receives:
                    if not self._places:
                        async with asyncio.timeout(ANSWER_S):
                            seconds, _ = await self._reader.time()
                        self._began = seconds * 1000
                        self._places[HELLOS] = b"0-0"
                    self._receives = True
                    await self._tell_missed()
                async with asyncio.timeout(BLOCK_S + ANSWER_S):
                    found = await self._read()
                retry_s = RETRY_S
            except (RedisError, OSError) as error:
                if self._receives:
                    log.warning("bus_away", told=str(error) or type(error).__name__)
                self._receives = False
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, MAX_RETRY_S)
                continue
            for stream, entry_id, fields in _in_order(found):
                if stream in self._places:
                    self._places[stream] = entry_id
                if stream == HELLOS:
                    await self._greet(fields.get(b"from", self._name), entry_id)
                else:
                    for event in fields.values():
                        await self._take(event)

    async def _read(self) -> Any:
        places: dict[Any, Any] = dict(self._places)
        return await self._reader.xread(places, count=BATCH, block=int(BLOCK_S * 1000))

    async def _greet(self, name: bytes, entry_id: bytes) -> None:
        """Read what a process writes from its hello on; leave those that have been silent."""
        now, _ = _moment(entry_id)
        for silent in [other for other, at in self._heard.items() if now - at > SILENT_S * 1000]:
            del self._heard[silent]
            self._places.pop(EVENTS + silent, None)
        if name != self._name:
            is_new = name not in self._heard
            self._heard[name] = now
            if is_new:
                # From the ms of its hello on; what it wrote before this process began is of no use here.
                self._places[EVENTS + name] = b"%d-0" % (max(now, self._began) - 1)
                await self._tell_missed()

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


def _moment(entry_id: bytes) -> tuple[int, int]:
    """Return the parts of an entry's id: when it was written, in ms, and its number in that ms."""
    at, _, number = entry_id.partition(b"-")
    return int(at), int(number)


def _in_order(found: Any) -> list[tuple[bytes, bytes, Mapping[bytes, bytes]]]:
    """Return what was read of several streams as (stream, id, fields), in the order of its writing."""
    entries = [(stream, entry_id, fields) for stream, of_it in found for entry_id, fields in of_it]
    return entries if len(found) < 2 else sorted(entries, key=lambda entry: _moment(entry[1]))
