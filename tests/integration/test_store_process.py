"""The process of the store: it is asked in order, its errors travel, and it may die."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from sfu.calls.ports import NewEvent, StoredEvent
from sfu.errors import Conflict, NotFound, Unavailable
from sfu.store import remote
from sfu.store.recordings import Wanted
from sfu.store.records import Claim, Claimed, Engaged, StoreError
from sfu.store.remote import RemoteStore
from sfu.store.sql import SqlStore


@pytest.fixture
def url(tmp_path):
    return f"sqlite+aiosqlite:///{tmp_path}/calls.db"


@pytest.fixture
async def store(url, monkeypatch):
    monkeypatch.setattr(remote, "RESTART_S", 0.01)
    back = asyncio.Event()

    async def restarted():
        back.set()

    store = RemoteStore(url, StoredEvent, restarted)
    await store.open()
    store.back = back
    yield store
    await store.close()


async def never():
    raise AssertionError("the process of the store died")


def document(call_id, version=1, **more):
    return {
        "id": call_id,
        "version": version,
        "status": "ringing",
        "call_type": "voice",
        "initiator": "a",
        "initiator_name": "A",
        "conversation_id": None,
        "created_at": "2026-01-01",
        "participants": [{"user_id": "a"}, {"user_id": "b"}],
        **more,
    }


def event(user_id, **data):
    return NewEvent(user_id, "evt_1", "call.incoming", data)


def of_process(pid, name):
    """Read something that the kernel knows of a process; None if it is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except FileNotFoundError:
        return None


async def test_what_is_asked_at_once_is_done_in_order(store):
    changes = [store.commit(document("call_1", n), [event("a", n=n), event("b", n=n)]) for n in range(1, 101)]
    kept = await asyncio.gather(*changes)
    assert [[e.seq for e in events] for events in kept] == [[n, n] for n in range(1, 101)]
    assert [e.data["n"] for e in await store.events_after("b", 90)] == list(range(91, 101))
    assert kept[0][0] == StoredEvent("a", 1, "evt_1", "call.incoming", {"n": 1})


async def test_what_every_method_takes_and_gives_travels(store, url):
    """Asked in the process or on a store here, the same is found."""
    webhook = {"id": "wh_1", "url": "http://x/", "secret": "s", "types": [], "created_at": "2026-01-01"}
    recording = {"id": "rec_1", "call_id": "call_1", "state": "active", "created_at": "2026-01-01"}
    await store.outbox.add_webhook(webhook)
    await store.commit(document("call_1"), [event("b", call={"id": "call_1"})], at="2026-01-01", due_at=5.0)
    await store.put_conversation("conv", {"participants": ["a", "b"]})
    await store.recordings.put(recording)
    await store.recordings.put({**recording, "id": "rec_2", "state": "sealed", "keep_until": "2026-01-15"})
    await store.recordings.change("rec_1", {"hold": {"by": "a"}})
    await store.recordings.note("rec_1", at="2026-01-01", action="read", user_id="a", detail={})
    assert await store.beat("proc", 1.0, 0.0) == ["proc"]
    here = SqlStore(url, StoredEvent)
    await here.open()
    before = ("2026-01-02", "call_9")
    questions = (
        ("", "load", ("call_1",), {}),
        ("", "open_calls", ("b",), {}),
        ("", "unfinished", (), {}),
        ("", "due", (10.0,), {}),
        ("", "history", ("a",), {"status": "ringing", "before": before, "limit": 1}),
        ("", "timeline", ("call_1",), {}),
        ("", "events_after", ("b", 0), {}),
        ("", "events_after", ("b", 7), {}),
        ("", "last_seq", ("b",), {}),
        ("", "claimed", ("a", "key"), {}),
        ("", "conversation", ("conv",), {}),
        ("outbox", "webhooks", (), {}),
        ("outbox", "notifications", ("b",), {"unread": True, "limit": 5}),
        ("recordings", "get", ("rec_1",), {}),
        ("recordings", "find", (Wanted(state="active", before=before, user_id="a", limit=5),), {}),
        ("recordings", "overdue", ("2026-02-01", 5), {}),
        ("recordings", "trail", ("rec_1",), {}),
    )
    for part, name, args, kwargs in questions:
        there, told = (getattr(one, part) if part else one for one in (store, here))
        found = await getattr(there, name)(*args, **kwargs)
        assert found == await getattr(told, name)(*args, **kwargs)
        assert found or name in ("events_after", "claimed"), name
    with pytest.raises(Conflict):
        await store.recordings.change("rec_1", {"state": "erasing"}, unless=("hold",))
    (due,) = await store.outbox.due_deliveries(9e9)
    assert await store.outbox.take_delivery(due, 9e9 + 1)
    await store.outbox.note_delivery(due, next_at=None, error=None)
    assert await here.outbox.due_deliveries(9e9 + 2) == []
    assert await store.outbox.replay("wh_1", 1, 0.0) == 1
    assert await store.outbox.remove_webhook("wh_1")
    assert await store.delete_conversation("conv")
    await store.forget_process("proc")
    await here.close()


async def test_much_travels_both_ways(store):
    """More than the kernel takes at once."""
    wide = {"text": "ë" * 3_000_000}
    await asyncio.gather(*(store.commit(document(f"call_{n}", metadata=wide), []) for n in range(3)))
    found = await asyncio.gather(*(store.load(f"call_{n}") for n in range(3)))
    assert [call["metadata"] for call in found] == [wide] * 3


async def test_errors_are_those_of_the_store(store):
    claim = Claim("a", "key", 1.0)
    await store.commit(document("call_1"), [], claim=claim)
    with pytest.raises(Conflict):
        await store.commit(document("call_1"), [])
    with pytest.raises(Claimed) as claimed:
        await store.commit(document("call_2"), [], claim=claim)
    assert claimed.value.call_id == "call_1"
    with pytest.raises(Engaged):
        await store.commit(document("call_3"), [], free=("b",))
    assert not isinstance(claimed.value, NotFound)
    with pytest.raises(RuntimeError, match="AttributeError"):
        await store.no_such_method()
    with pytest.raises((TypeError, AttributeError)):
        await store.put_conversation("x", {"participants": lambda: None})
    assert await store.is_there()


async def test_a_process_that_dies_is_started_again(store):
    """Who waits for an answer is told so at once, and so is who asks meanwhile."""
    killed = store.pid
    await store.commit(document("call_1"), [event("a")])
    os.kill(killed, signal.SIGSTOP)
    waiting = [asyncio.create_task(store.load("call_1")) for _ in range(3)]
    await asyncio.sleep(0)
    os.kill(killed, signal.SIGKILL)
    told = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in told] == [Unavailable] * 3
    assert {error.code for error in told} == {"store_away"}
    with pytest.raises(Unavailable):
        await store.load("call_1")
    assert not await store.is_there()
    async with asyncio.timeout(20):
        await store.back.wait()
    assert store.pid not in (None, killed)
    assert (await store.load("call_1"))["id"] == "call_1"
    assert [e.seq for e in await store.commit(document("call_1", 2), [event("a")])] == [2]


async def test_a_process_that_hangs_is_killed_and_started_again(url, monkeypatch):
    """Who waits for an answer is told; one that is only idle is left alone."""
    monkeypatch.setattr(remote, "RESTART_S", 0.01)
    monkeypatch.setattr(remote, "LOOK_S", 0.05)
    back = asyncio.Event()

    async def restarted():
        back.set()

    store = RemoteStore(url, StoredEvent, restarted)
    await store.open()
    hung = store.pid
    await asyncio.sleep(0.3)  # several looks
    assert store.pid == hung
    os.kill(hung, signal.SIGSTOP)
    async with asyncio.timeout(20):
        with pytest.raises(Unavailable):
            await store.load("call_1")
        await back.wait()
    assert store.pid != hung
    assert await store.load("call_1") is None
    await store.close()


async def test_signals_for_the_server_are_none_of_its_business(store):
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(store.pid, number)
    await store.commit(document("call_1"), [])
    assert await store.is_there()


async def test_where_the_database_is_is_not_for_everybody_who_lists_processes(store, url):
    assert url not in of_process(store.pid, "cmdline")


async def test_what_was_asked_before_the_end_is_done(url):
    store = RemoteStore(url, StoredEvent, never)
    await store.open()
    pid = store.pid
    asked = [asyncio.create_task(store.commit(document(f"call_{n}"), [event("a")])) for n in range(50)]
    await asyncio.sleep(0)
    await store.close()
    assert sorted(events[0].seq for events in await asyncio.gather(*asked)) == list(range(1, 51))
    assert of_process(pid, "cmdline") is None
    with pytest.raises(Unavailable):
        await store.load("call_1")


async def test_what_cannot_be_opened_is_told_and_nothing_is_left(tmp_path):
    for url, told in (
        ("nonsense", "URL"),
        (f"sqlite+aiosqlite:///{tmp_path}/no/such/folder.db", "unable to open"),
    ):
        store = RemoteStore(url, StoredEvent, never)
        with pytest.raises(StoreError, match=told):
            await store.open()
        assert store.pid is None
