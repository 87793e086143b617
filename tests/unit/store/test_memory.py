"""The store in memory: one transaction each, copies in and out, events without a hole."""

import pytest

from sfu.calls.ports import NewEvent, StoredEvent
from sfu.errors import Conflict
from sfu.store import memory
from sfu.store.memory import MemoryStore


@pytest.fixture
def store():
    return MemoryStore(StoredEvent)


def document(call_id="call_1", version=1, status="ringing", users=("a", "b")):
    return {
        "id": call_id,
        "version": version,
        "status": status,
        "participants": [{"user_id": user} for user in users],
    }


def event(user, event_id="evt", data=None):
    return NewEvent(user, event_id, "call.incoming", data if data is not None else {})


async def test_what_was_kept_is_loaded(store):
    await store.commit(document(), [])
    assert await store.load("call_1") == document()
    assert await store.load("call_2") is None


@pytest.mark.parametrize("version", [0, 2, 7])
async def test_a_new_call_begins_with_version_one(store, version):
    with pytest.raises(Conflict):
        await store.commit(document(version=version), [event("a")])
    assert await store.load("call_1") is None
    assert await store.last_seq("a") == 0


@pytest.mark.parametrize("version", [0, 1, 2, 4])
async def test_a_version_that_is_not_the_next_keeps_nothing(store, version):
    await store.commit(document(version=1), [])
    await store.commit(document(version=2), [])
    with pytest.raises(Conflict):
        await store.commit(document(version=version, status="ended"), [event("a")])
    assert (await store.load("call_1"))["version"] == 2
    assert len(await store.open_calls("a")) == 1
    assert await store.last_seq("a") == 0


async def test_documents_and_events_are_copies(store):
    mine, data = document(), {"call": {"k": 1}}
    (stored,) = await store.commit(mine, [event("a", data=data)])
    mine["participants"].append("spoiled")
    data["call"]["k"] = 2
    (await store.load("call_1"))["participants"].append("spoiled")
    (await store.open_calls("a"))[0]["status"] = "spoiled"
    assert await store.load("call_1") == document()
    assert stored.data == {"call": {"k": 1}}


async def test_open_calls_come_oldest_first_and_go_when_they_end(store):
    await store.commit(document("call_1"), [])
    await store.commit(document("call_2", users=("a", "c")), [])
    assert [c["id"] for c in await store.open_calls("a")] == ["call_1", "call_2"]
    assert [c["id"] for c in await store.open_calls("b")] == ["call_1"]
    await store.commit(document("call_1", 2, "ended"), [])
    assert [c["id"] for c in await store.open_calls("a")] == ["call_2"]
    assert await store.open_calls("b") == []


async def test_a_call_that_is_over_at_once_is_never_open(store):
    await store.commit(document(status="ended"), [])
    assert await store.open_calls("a") == []
    assert await store.load("call_1") is not None


async def test_who_is_invited_later_has_the_call_open_too(store):
    await store.commit(document(), [])
    await store.commit(document(version=2, users=("a", "b", "c")), [])
    assert [c["id"] for c in await store.open_calls("c")] == ["call_1"]


async def test_only_so_many_ended_calls_are_kept(store, monkeypatch):
    monkeypatch.setattr(memory, "MAX_ENDED_CALLS", 2)
    for number in range(4):
        await store.commit(document(f"call_{number}", status="ended"), [])
    assert [await store.load(f"call_{n}") is not None for n in range(4)] == [False, False, True, True]


async def test_numbers_grow_by_one_for_each_user(store):
    first = await store.commit(document(), [event("a", "1"), event("b", "2"), event("a", "3")])
    second = await store.commit(document(version=2), [event("a", "4")])
    assert [(e.user_id, e.seq, e.event_id) for e in first + second] == [
        ("a", 1, "1"),
        ("b", 1, "2"),
        ("a", 2, "3"),
        ("a", 3, "4"),
    ]
    assert (await store.last_seq("a"), await store.last_seq("b"), await store.last_seq("c")) == (3, 1, 0)


async def test_an_event_keeps_whom_it_is_not_for(store):
    new = NewEvent("a", "evt", "call.answered_elsewhere", {"by": "a"}, not_for="ses_1")
    (stored,) = await store.commit(document(), [new])
    assert stored == StoredEvent("a", 1, "evt", "call.answered_elsewhere", {"by": "a"}, "ses_1")


@pytest.mark.parametrize(
    ("after", "expected"),
    [(0, [1, 2, 3]), (1, [2, 3]), (2, [3]), (3, []), (4, None), (-1, None), (10**15, None)],
)
async def test_events_after_a_number(store, after, expected):
    await store.commit(document(), [event("a"), event("a"), event("a")])
    events = await store.events_after("a", after)
    assert events is None if expected is None else [e.seq for e in events] == expected


async def test_somebody_without_events_has_nothing_after_zero_and_nothing_else(store):
    assert await store.events_after("a", 0) == []
    assert await store.events_after("a", 1) is None


async def test_what_is_too_old_is_gone_and_said_to_be(store):
    count = memory.MAX_EVENTS_PER_USER + 5
    await store.commit(document(), [event("a") for _ in range(count)])
    assert await store.events_after("a", 4) is None
    assert [e.seq for e in await store.events_after("a", 5)] == list(range(6, count + 1))
