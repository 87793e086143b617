"""Who is here: sessions that outlive their sockets, presence, and events without a hole."""

import asyncio

import pytest
import structlog

from sfu.auth import Identity
from sfu.calls.ports import NewEvent, StoredEvent
from sfu.errors import NotAllowed
from sfu.signaling import hub as module
from sfu.signaling.hub import Hub
from sfu.signaling.session import CloseCode
from sfu.store import memory
from sfu.store.memory import MemoryStore


class FakeSocket:
    """What a session sends goes into a list; it is open until it is closed."""

    def __init__(self):
        self.frames = []
        self.closed_with = None

    @property
    def is_open(self):
        return self.closed_with is None

    def send(self, frame):
        if self.is_open:
            self.frames.append(frame)

    def close(self, code, reason):
        self.closed_with = code

    def seqs(self):
        return [frame["seq"] for frame in self.frames if "seq" in frame]

    def presence(self):
        return [
            (frame["data"]["user_id"], frame["data"]["online"])
            for frame in self.frames
            if frame["type"] == "presence.changed"
        ]


class Bench:
    """A hub over a log in memory."""

    def __init__(self, *, window_s=30.0, directory=True):
        self.log = MemoryStore(StoredEvent)
        self.hub = Hub(self.log, window_s, directory=directory)
        self.versions = 0
        self.expired = []
        self.gone = asyncio.Event()
        self.hub.on_expired = self._expired

    async def _expired(self, session):
        self.expired.append(session.user_id)
        self.gone.set()

    def arrive(self, user):
        session = self.hub.open(Identity(user, user.upper(), 0.0), "ws://host/ws")
        self.hub.attach(session, FakeSocket())
        return session

    async def keep(self, *users, not_for=None):
        """Keep one event for each, and return them without telling anybody."""
        self.versions += 1
        document = {"id": "call_1", "version": self.versions, "status": "ringing", "participants": []}
        new = [NewEvent(user, "evt", "call.updated", {"n": self.versions}, not_for) for user in users]
        return await self.log.commit(document, new)

    async def happen(self, *users, not_for=None):
        for event in await self.keep(*users, not_for=not_for):
            await self.hub.receive(event)


@pytest.fixture
async def bench():
    made = Bench()
    yield made
    await made.hub.close()


# Events


async def test_every_device_of_a_user_is_told_and_nobody_else(bench):
    phone, desk, other = bench.arrive("a"), bench.arrive("a"), bench.arrive("b")
    await bench.happen("a")
    assert phone.socket.seqs() == desk.socket.seqs() == [1]
    assert other.socket.seqs() == []


async def test_a_device_that_did_it_is_passed_over_and_goes_on(bench):
    phone, desk = bench.arrive("a"), bench.arrive("a")
    await bench.happen("a", not_for=phone.id)
    await bench.happen("a")
    assert phone.socket.seqs() == [2]
    assert desk.socket.seqs() == [1, 2]


async def test_an_event_that_comes_before_an_earlier_one_brings_that_one_along(bench):
    phone = bench.arrive("a")
    (first,), (second,) = await bench.keep("a"), await bench.keep("a")
    await bench.hub.receive(second)
    await bench.hub.receive(first)
    assert phone.socket.seqs() == [1, 2]


async def test_who_is_away_is_told_everything_when_he_is_back(bench):
    phone = bench.arrive("a")
    await bench.happen("a")
    bench.hub.detach(phone, phone.socket, for_good=False)
    await bench.happen("a")
    await bench.happen("a")
    bench.hub.attach(phone, FakeSocket())
    assert await bench.hub.catch_up(phone)
    assert phone.socket.seqs() == [2, 3]
    await bench.happen("a")
    assert phone.socket.seqs() == [2, 3, 4]


async def test_when_the_log_has_lost_something_it_is_said_and_the_count_goes_on(bench, monkeypatch):
    monkeypatch.setattr(memory, "MAX_EVENTS_PER_USER", 2)
    phone = bench.arrive("a")
    for _ in range(5):
        await bench.keep("a")
    assert not await bench.hub.catch_up(phone)
    assert phone.socket.seqs() == []
    await bench.happen("a")
    assert phone.socket.seqs() == [6]


async def test_a_delivered_event_is_viewed_by_its_session_and_told_of(bench):
    phone, seen = bench.arrive("a"), []
    bench.hub.view = lambda session, data: {**data, "for": session.user_id}
    bench.hub.on_delivered = lambda session, event: seen.append((session.id, event.seq))
    await bench.happen("a")
    assert phone.socket.frames[-1]["data"] == {"n": 1, "for": "a"}
    assert seen == [(phone.id, 1)]


# Sessions


async def test_a_session_is_taken_up_again_only_by_its_user_with_its_token(bench):
    phone = bench.arrive("a")
    assert bench.hub.resumable(phone.resume_token, "a") is phone
    assert bench.hub.resumable(phone.resume_token, "b") is None
    assert bench.hub.resumable("unknown", "a") is None


async def test_a_socket_that_comes_later_replaces_the_earlier(bench):
    phone = bench.arrive("a")
    first, second = phone.socket, FakeSocket()
    bench.hub.attach(phone, second)
    assert first.closed_with == CloseCode.REPLACED
    bench.hub.detach(phone, first, for_good=False)
    assert phone.socket is second
    assert phone.expiry is None


async def test_a_session_that_does_not_come_back_ends():
    bench = Bench(window_s=0.0)
    phone = bench.arrive("a")
    bench.hub.detach(phone, phone.socket, for_good=False)
    async with asyncio.timeout(5):
        await bench.gone.wait()
    assert bench.expired == ["a"]
    assert bench.hub.sessions("a") == bench.hub.all_sessions() == []
    assert bench.hub.resumable(phone.resume_token, "a") is None
    await bench.hub.close()


async def test_who_says_goodbye_is_gone_at_once_and_his_other_device_stays(bench):
    phone, desk = bench.arrive("a"), bench.arrive("a")
    bench.hub.detach(phone, phone.socket, for_good=True)
    async with asyncio.timeout(5):
        await bench.gone.wait()
    assert bench.hub.sessions("a") == [desk]


async def test_a_session_whose_media_flows_is_kept_until_it_does_not(monkeypatch):
    monkeypatch.setattr(module, "RECHECK_S", 0.0)
    bench = Bench(window_s=0.0)
    phone = bench.arrive("a")
    phone.peer_id = "par_1"
    bench.hub.detach(phone, phone.socket, for_good=False)
    for _ in range(10):
        await asyncio.sleep(0)
    assert bench.hub.sessions("a") == [phone]
    phone.peer_id = None
    async with asyncio.timeout(5):
        await bench.gone.wait()
    await bench.hub.close()


async def test_a_session_that_comes_back_in_the_moment_it_ends_stays():
    """The window closes and, in the same turn of the loop, its socket is there again."""
    bench = Bench(window_s=0.0)
    phone, loop = bench.arrive("a"), asyncio.get_running_loop()
    bench.hub.detach(phone, phone.socket, for_good=False)
    again = FakeSocket()
    loop.call_later(0, bench.hub.attach, phone, again)
    for _ in range(5):
        await asyncio.sleep(0)
    assert phone.socket is again
    assert bench.hub.sessions("a") == [phone]
    await bench.happen("a")
    assert again.seqs() == [1]
    await bench.hub.close()


async def test_a_failure_in_the_background_is_logged_and_nothing_else(bench):
    done = asyncio.Event()

    async def fail():
        done.set()
        raise RuntimeError("oops")

    with structlog.testing.capture_logs() as logged:
        bench.hub.spawn(fail())
        await done.wait()
        await bench.hub.close()
    assert [entry["event"] for entry in logged] == ["background_work_failed"]
    phone = bench.arrive("a")
    await bench.happen("a")
    assert phone.socket.seqs() == [1]


async def test_after_close_nothing_of_the_hub_runs():
    bench = Bench()
    begun, never = asyncio.Event(), asyncio.Event()

    async def wait():
        begun.set()
        await never.wait()

    bench.hub.spawn(wait())
    await begun.wait()
    phone = bench.arrive("a")
    bench.hub.detach(phone, phone.socket, for_good=False)
    await bench.hub.close()
    assert phone.expiry.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_work_that_had_not_begun_when_the_hub_closes_leaves_no_warning(bench):
    """A coroutine that nobody awaits says so on standard error when it is collected."""

    async def work():
        raise AssertionError("it must not begin")

    coroutine = work()
    bench.hub.spawn(coroutine)
    await bench.hub.close()
    closed = coroutine.cr_frame is None
    coroutine.close()
    assert closed


# Presence and names


async def test_a_watcher_is_told_who_comes_and_goes(bench):
    watcher = bench.arrive("w")
    assert bench.hub.watch(watcher, ["a", "b"])["online"] == []
    phone, desk = bench.arrive("a"), bench.arrive("a")
    bench.arrive("c")
    bench.hub.detach(phone, phone.socket, for_good=False)
    bench.hub.detach(desk, desk.socket, for_good=False)
    assert watcher.socket.presence() == [("a", True), ("a", False)]
    assert bench.hub.watch(watcher, ["a", "c"])["online"] == ["c"]


async def test_who_comes_is_looked_at_only_for_those_who_watch(bench, monkeypatch):
    """Thousands come at once when a proxy starts again: each looked at for each holds up the rings."""
    bench.arrive("b")
    watcher = bench.arrive("w")
    bench.hub.watch(watcher, ["a"])
    monkeypatch.setattr(bench.hub, "_by_user", NeverAll(bench.hub._by_user))
    bench.arrive("a")
    assert watcher.socket.presence() == [("a", True)]
    bench.hub.watch(watcher, [])
    other = bench.arrive("c")
    bench.hub.detach(other, other.socket, for_good=False)
    assert watcher.socket.presence() == [("a", True)]


class NeverAll(dict):
    """Knows each, and is never asked for everybody."""

    def values(self):
        raise AssertionError("everybody was looked at")


async def test_a_watcher_whose_session_ended_in_the_moment_of_his_return_watches_on(bench):
    watcher = bench.arrive("w")
    bench.hub.watch(watcher, ["a"])
    socket = watcher.socket
    bench.hub.detach(watcher, socket, for_good=False)
    await bench.hub._expire(watcher)
    bench.arrive("a")
    assert socket.presence() == []
    bench.hub.attach(watcher, socket)
    bench.arrive("b")
    phone = bench.hub.sessions("a")[0]
    bench.hub.detach(phone, phone.socket, for_good=False)
    assert socket.presence() == [("a", False)]


async def test_everybody_can_be_watched_only_where_there_is_a_directory(bench):
    watcher = bench.arrive("w")
    bench.arrive("a")
    assert bench.hub.watch(watcher, ["*"])["online"] == ["a", "w"]
    bench.arrive("b")
    assert watcher.socket.presence() == [("b", True)]
    strict = Bench(directory=False)
    with pytest.raises(NotAllowed):
        strict.hub.watch(strict.arrive("w"), ["*"])


async def test_a_name_is_the_last_that_a_token_told_and_only_so_many_are_remembered(bench, monkeypatch):
    assert bench.hub.name_of("a") == "a"
    bench.arrive("a")
    assert bench.hub.name_of("a") == "A"
    monkeypatch.setattr(module, "MAX_NAMES", 2)
    bench.arrive("b")
    bench.arrive("a")
    bench.arrive("c")
    assert [bench.hub.name_of(u) for u in "abc"] == ["A", "b", "C"]
