"""Several buses on one Redis: each hears of the others' events, in order, and of nobody who is gone."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import redis.asyncio

from sfu.bus import redis as module
from sfu.bus.redis import EVENTS, HELLOS, RedisBus
from tests.support import backends


@pytest.fixture(scope="module")
def server():
    with backends.redis() as server:
        yield server


@pytest.fixture
async def client(server):
    """A client of an empty Redis."""
    async with redis.asyncio.Redis.from_url(server.url) as client:
        await client.flushall()
        yield client


class Listener:
    """A bus, and all it told: events of anybody, those of others, and how often some may be missing."""

    def __init__(self, url, name):
        self.bus = RedisBus(url, name, str.encode, bytes.decode)
        self.heard, self.remote, self.missed = [], [], 0
        self._news = asyncio.Condition()
        self.bus.subscribe(self._hear)
        self.bus.subscribe_remote(self._hear_remote)
        self.bus.on_missed(self._miss)

    async def _hear(self, event):
        self.heard.append(event)

    async def _hear_remote(self, event):
        self.remote.append(event)
        await self._tell()

    async def _miss(self):
        self.missed += 1
        await self._tell()

    async def _tell(self):
        async with self._news:
            self._news.notify_all()

    async def until(self, is_so):
        async with asyncio.timeout(15), self._news:
            await self._news.wait_for(is_so)

    async def say(self, *events):
        for event in events:
            await self.bus.publish(event)

    async def hears(self, *events):
        await self.until(lambda: len(self.remote) >= len(events))
        assert self.remote == list(events)


@asynccontextmanager
async def listeners(url, *names):
    """Buses that all have heard of each other."""
    async with AsyncExitStack() as stack:
        found = []
        for name in names:
            found.append(Listener(url, name))
            stack.push_async_callback(found[-1].bus.close)
            await found[-1].bus.start()
        for listener in found:  # once it is there itself, and once for each of the others
            await listener.until(lambda listener=listener: listener.missed == len(names))
        yield found


async def test_each_hears_of_its_own_at_once_and_of_the_others_in_order(client, server):
    async with listeners(server.url, "a", "b", "c") as (a, b, c):
        events = [f"{number}" for number in range(1000)]
        await a.say(*events)
        assert a.heard == events
        await b.hears(*events)
        await c.hears(*events)
        await b.say("back")
        await a.hears("back")
        await c.hears(*events, "back")
        assert b.heard == [*events, "back"]
    # Events that waited together travelled together.
    assert await client.xlen(EVENTS + b"a") < 100


async def test_events_of_two_come_in_the_order_of_their_writing(client, server):
    async with listeners(server.url, "a", "b", "c") as (a, b, c):
        for number in range(50):
            await a.say(f"a{number}")
            await b.until(lambda number=number: len(b.remote) == number + 1)
            await b.say(f"b{number}")
            await a.until(lambda number=number: len(a.remote) == number + 1)
        await c.hears(*(f"{who}{number}" for number in range(50) for who in "ab"))


async def test_who_comes_later_hears_of_what_is_new_and_is_heard(client, server):
    async with listeners(server.url, "a") as (a,):
        await a.say("old")
        while not await client.exists(EVENTS + b"a"):
            await asyncio.sleep(0)
        await asyncio.sleep(1.1)  # the clock of Redis that is asked has seconds
        late = Listener(server.url, "late")
        await late.bus.start()
        await late.until(lambda: late.missed == 2)
        await a.until(lambda: a.missed == 2)
        await late.say("here")
        await a.hears("here")
        await a.say("new")
        await late.hears("new")
        await late.bus.close()


async def test_who_is_silent_is_forgotten_and_heard_again_when_it_is_back(client, server, monkeypatch):
    monkeypatch.setattr(module, "HELLO_S", 0.1)
    monkeypatch.setattr(module, "SILENT_S", 1.0)
    async with listeners(server.url, "a") as (a,):
        gone = Listener(server.url, "b")
        await gone.bus.start()
        await a.until(lambda: a.missed == 2)
        await gone.say("last words")
        await a.hears("last words")
        assert set(a.bus._places) == {HELLOS, EVENTS + b"b"}
        await gone.bus.close()
        async with asyncio.timeout(10):
            while len(a.bus._places) > 1:
                await asyncio.sleep(0.02)
        back = Listener(server.url, "b")
        await back.bus.start()
        await a.until(lambda: a.missed == 3)
        await back.say("again")
        await a.hears("last words", "again")
        await back.bus.close()


async def test_what_a_process_wrote_does_not_stay_when_it_is_gone(client, server):
    async with listeners(server.url, "a", "b") as (a, b):
        await a.say("x")
        await b.hears("x")
        await a.say("y")  # by now it has been told how long to keep it
        await b.hears("x", "y")
        assert 0 < await client.ttl(EVENTS + b"a") <= module.KEPT_S


async def test_a_redis_that_lost_everything_goes_on(client, server, monkeypatch):
    monkeypatch.setattr(module, "HELLO_S", 0.2)
    async with listeners(server.url, "a", "b") as (a, b):
        await client.flushall()
        await a.say("after")
        await b.hears("after")
        # Who begins now hears of the others by their next hello.
        late = Listener(server.url, "late")
        await late.bus.start()
        await late.until(lambda: late.missed == 3)
        await a.say("to all")
        await late.until(lambda: "to all" in late.remote)
        await late.bus.close()


async def test_what_waits_while_redis_is_away_is_bounded_and_the_others_are_told(monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 10)
    monkeypatch.setattr(module, "RETRY_S", 0.05)
    with backends.redis() as own:
        async with listeners(own.url, "a", "b") as (a, b):
            own.stop()
            events = [f"{number}" for number in range(30)]
            await a.say(*events)
            assert a.heard == events
            async with asyncio.timeout(15):
                while a.bus.is_there or b.bus.is_there:
                    await a.say("try")
                    await asyncio.sleep(0.02)
            missed = b.missed
            own.start()
            # Once because it was away itself, once because it is told so.
            await b.until(lambda: b.missed >= missed + 2)
            await a.say("end")
            await b.until(lambda: "end" in b.remote)
            assert len(b.remote) <= 10 + module.BATCH + 1


async def test_a_redis_that_hangs_is_away_and_what_was_asked_of_it_is_asked_again(monkeypatch):
    for name in ("ANSWER_S", "BLOCK_S", "HELLO_S"):
        monkeypatch.setattr(module, name, 0.3)
    with backends.redis() as own:
        async with listeners(own.url, "a", "b") as (a, b):
            with own.hangs():
                await a.say("meanwhile")
                async with asyncio.timeout(15):
                    while a.bus.is_there or b.bus.is_there:
                        await asyncio.sleep(0.02)
            await b.until(lambda: "meanwhile" in b.remote)
            async with asyncio.timeout(15):
                while not (a.bus.is_there and b.bus.is_there):
                    await asyncio.sleep(0.02)


async def test_an_entry_that_nobody_understands_stops_nothing(client, server):
    async with listeners(server.url, "a", "b") as (a, b):
        await client.xadd(EVENTS + b"a", {b"0": b"\xff"})
        await client.xadd(HELLOS, {b"x": b"y"})
        await a.say("fine")
        await b.hears("fine")


async def test_events_wait_for_a_redis_that_is_not_there_yet():
    with backends.redis() as own:
        own.stop()
        a, b = Listener(own.url, "a"), Listener(own.url, "b")
        await a.bus.start()
        await a.say("early")
        assert not a.bus.is_there
        own.start()
        await a.until(lambda: a.missed == 1)
        await b.bus.start()
        await b.until(lambda: b.missed == 2)
        await a.until(lambda: a.missed == 2)
        await a.say("now")
        await b.until(lambda: "now" in b.remote)
        assert a.bus.is_there
        await a.bus.close()
        await b.bus.close()


def test_a_url_that_is_none_is_refused():
    with pytest.raises(ValueError, match="scheme"):
        RedisBus("http://nowhere", "a", str.encode, bytes.decode)


def test_what_was_read_of_several_streams_is_told_in_the_order_of_its_writing():
    one = [(b"9-0", {b"0": b"first"}), (b"10-1", {b"0": b"third"})]
    two = [(b"10-0", {b"0": b"second"}), (b"100-0", {b"0": b"last"})]
    told = [fields[b"0"] for _, _, fields in module._in_order([(b"one", one), (b"two", two)])]
    assert told == [b"first", b"second", b"third", b"last"]
