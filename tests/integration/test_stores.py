"""The stores, in memory, in SQLite, in PostgreSQL: one contract, one set of tests."""

import asyncio
import itertools

import pytest
import pytest_asyncio

from sfu.calls.ports import NewEvent, StoredEvent
from sfu.errors import Conflict, Unavailable
from sfu.store.memory import MemoryStore
from sfu.store.recordings import NOTHING, Wanted, hash_of
from sfu.store.records import MAX_EVENTS_PER_USER, Claim, Claimed, StoreError
from sfu.store.sql import SqlStore
from tests.support import backends

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def postgres():
    with backends.postgres() as server:
        yield server


async def make(kind, tmp_path, request):
    """Open an empty store."""
    if kind == "memory":
        return MemoryStore(StoredEvent)
    if kind == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path}/calls.db"
    else:
        url = await backends.database(request.getfixturevalue("postgres"), f"test_{next(_numbers)}")
    store = SqlStore(url, StoredEvent)
    await store.open()
    return store


@pytest_asyncio.fixture(params=["memory", "sqlite", "postgresql"])
async def store(request, tmp_path):
    made = await make(request.param, tmp_path, request)
    yield made
    await made.close()


@pytest_asyncio.fixture(params=["sqlite", "postgresql"])
async def sql(request, tmp_path):
    made = await make(request.param, tmp_path, request)
    yield made
    await made.close()


def document(
    call_id="call_1", version=1, status="ringing", users=("a", "b"), created_at="2026-01-01", **more
):
    return {
        "id": call_id,
        "version": version,
        "status": status,
        "call_type": "voice",
        "initiator": users[0],
        "initiator_name": users[0].title(),
        "conversation_id": None,
        "created_at": created_at,
        "participants": [{"user_id": user} for user in users],
        **more,
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
    await store.commit(mine, [event("a", data=data)])
    mine["participants"].append("spoiled")
    data["call"]["k"] = 2
    (await store.load("call_1"))["participants"].append("spoiled")
    (await store.open_calls("a"))[0]["status"] = "spoiled"
    assert await store.load("call_1") == document()
    (kept,) = await store.events_after("a", 0)
    assert kept.data == {"call": {"k": 1}}


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
    await store.commit(document(version=2, users=("a", "b", "c")), [event("c")])
    assert [c["id"] for c in await store.open_calls("c")] == ["call_1"]


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
    count = MAX_EVENTS_PER_USER + 100
    for version in range(1, 7):
        await store.commit(document(version=version), [event("a") for _ in range(100)])
    assert await store.last_seq("a") == count
    assert await store.events_after("a", 99) is None
    assert [e.seq for e in await store.events_after("a", 100)] == list(range(101, count + 1))


# Repeated requests


async def test_a_claim_is_taken_once(store):
    """Who repeats a request is told what it made, and nothing is made again."""
    claim = Claim("a", "key", 5.0)
    assert await store.claimed("a", "key") is None
    await store.commit(document(), [], claim=claim)
    with pytest.raises(Claimed) as repeated:
        await store.commit(document("call_2"), [event("a")], claim=claim)
    assert repeated.value.call_id == "call_1"
    assert await store.claimed("a", "key") == "call_1"
    assert await store.load("call_2") is None
    assert await store.last_seq("a") == 0
    await store.commit(document("call_3"), [], claim=Claim("b", "key", 5.0))
    assert await store.claimed("b", "key") == "call_3"


async def test_of_equal_requests_at_the_same_time_one_wins(sql):
    async def attempt(number):
        try:
            await sql.commit(document(f"call_{number}"), [event("b")], claim=Claim("a", "key", 5.0))
        except Conflict:
            return None
        return f"call_{number}"

    made = [call for call in await asyncio.gather(*map(attempt, range(8))) if call is not None]
    assert made == [await sql.claimed("a", "key")]
    assert await sql.last_seq("b") == 1


async def test_of_changes_at_the_same_time_one_wins(sql):
    """The others keep nothing, and the numbers of their events are not used up."""
    await sql.commit(document(), [])

    async def attempt(number):
        try:
            await sql.commit(document(version=2, by=number), [event("a"), event("b")])
        except Conflict:
            return None
        return number

    won = [number for number in await asyncio.gather(*map(attempt, range(8))) if number is not None]
    assert len(won) == 1
    assert (await sql.load("call_1"))["by"] == won[0]
    assert (await sql.last_seq("a"), await sql.last_seq("b")) == (1, 1)


async def test_users_of_many_calls_at_once_get_every_number_once(sql):
    """Whatever the order in which the events name them."""

    async def place(number):
        users = ("a", "b") if number % 2 else ("b", "a")
        return await sql.commit(document(f"call_{number}", users=users), [event(user) for user in users])

    stored = [e for events in await asyncio.gather(*map(place, range(40))) for e in events]
    for user in ("a", "b"):
        assert sorted(e.seq for e in stored if e.user_id == user) == list(range(1, 41))


# Looking for calls


async def test_what_is_due(store):
    """The earliest first; a change moves it, the end takes it away."""
    for number, due_at in enumerate((30.0, 10.0, None, 20.0)):
        await store.commit(document(f"call_{number}"), [], due_at=due_at)
    assert await store.due(5.0) == []
    assert await store.due(20.0) == ["call_1", "call_3"]
    await store.commit(document("call_1", 2), [], due_at=40.0)
    await store.commit(document("call_3", 2, "ended"), [])
    assert await store.due(35.0) == ["call_0"]


async def test_what_has_not_ended(store):
    await store.commit(document("call_1"), [])
    await store.commit(document("call_2", status="active", created_at="2026-01-02"), [])
    await store.commit(document("call_3", status="ended"), [])
    assert [c["id"] for c in await store.unfinished()] == ["call_1", "call_2"]


async def test_history_is_read_page_by_page(store):
    """The newest first, equal times by id; everybody his own."""
    for number in range(7):
        users = ("a", "b") if number != 3 else ("b", "c")
        status = "ended" if number < 5 else "active"
        created_at = f"2026-01-0{number // 2 + 1}"
        await store.commit(document(f"call_{number}", 1, status, users, created_at), [])
    seen, before = [], None
    while page := await store.history("a", before=before, limit=2):
        assert len(page) <= 2
        seen += [call["id"] for call in page]
        before = (page[-1]["created_at"], page[-1]["id"])
    assert seen == ["call_6", "call_5", "call_4", "call_2", "call_1", "call_0"]
    assert [c["id"] for c in await store.history("a", status="active")] == ["call_6", "call_5"]
    assert [c["id"] for c in await store.history("b", since="2026-01-03")] == ["call_6", "call_5", "call_4"]
    assert await store.history("nobody") == []


async def test_a_timeline_has_each_event_once(store):
    """However many it was for, without the call that stands in each."""
    told = [event(user, "evt_1", {"call": {"id": 1}, "event_id": "evt_1", "by": "a"}) for user in "ab"]
    await store.commit(document(), [*told, event("a", "evt_2")], at="2026-01-01T00:00:00.000Z")
    await store.commit(document(version=2), [event("a", "evt_3")], at="2026-01-01T00:00:01.000Z")
    found = await store.timeline("call_1")
    assert [(row["event_id"], row["at"][-4:-1], row["data"]) for row in found] == [
        ("evt_1", "000", {"by": "a"}),
        ("evt_2", "000", {}),
        ("evt_3", "000", {}),
    ]
    assert found[2]["at"] == "2026-01-01T00:00:01.000Z"
    assert await store.timeline("call_2") == []


# Conversations


async def test_a_conversation_is_put_replaced_and_deleted(store):
    assert await store.conversation("talk") is None
    assert await store.put_conversation("talk", {"id": "talk", "participants": ["a", "b"]})
    assert not await store.put_conversation(
        "talk", {"id": "talk", "participants": ["a", "c", "c"], "title": "x"}
    )
    assert await store.conversation("talk") == {"id": "talk", "participants": ["a", "c", "c"], "title": "x"}
    assert await store.delete_conversation("talk")
    assert not await store.delete_conversation("talk")
    assert await store.conversation("talk") is None


# Processes


async def test_the_silent_are_forgotten(sql):
    assert await sql.beat("p1", 100.0, 90.0) == ["p1"]
    assert sorted(await sql.beat("p2", 105.0, 95.0)) == ["p1", "p2"]
    assert await sql.beat("p2", 112.0, 102.0) == ["p2"]
    await sql.beat("p1", 113.0, 103.0)
    await sql.forget_process("p2")
    assert await sql.beat("p1", 114.0, 104.0) == ["p1"]
    assert await sql.is_there()


async def test_old_claims_are_forgotten(sql):
    await sql.commit(document(), [], claim=Claim("a", "old", 5.0))
    await sql.commit(document("call_2"), [], claim=Claim("a", "new", 90_000.0))
    await sql.beat("p1", 90_000.0, 0.0)
    assert (await sql.claimed("a", "old"), await sql.claimed("a", "new")) == (None, "call_2")


# Databases


async def test_what_was_kept_is_there_after_a_restart(tmp_path):
    """Opening twice changes nothing."""
    url = f"sqlite+aiosqlite:///{tmp_path}/calls.db"
    for _ in range(2):
        first = SqlStore(url, StoredEvent)
        await first.open()
        if await first.load("call_1") is None:
            await first.commit(document(), [event("a")])
        await first.close()
    again = SqlStore(url, StoredEvent)
    await again.open()
    assert await again.load("call_1") == document()
    assert [e.seq for e in await again.events_after("a", 0)] == [1]
    await again.close()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense", "no URL"),
        ("mysql://x/y", "sqlite+aiosqlite and postgresql+asyncpg"),
        ("sqlite+aiosqlite://", "is a file"),
        ("sqlite+aiosqlite:///:memory:", "is a file"),
        ("postgresql://x/y", "sqlite+aiosqlite and postgresql+asyncpg"),
    ],
)
def test_a_url_of_nothing_known_is_refused(url, told):
    with pytest.raises(StoreError, match=told.replace("+", r"\+")):
        SqlStore(url, StoredEvent)


async def test_a_database_that_cannot_be_opened_is_told():
    for url in ("sqlite+aiosqlite:////nonexistent/x.db", "postgresql+asyncpg://u@127.0.0.1:1/x"):
        store = SqlStore(url, StoredEvent)
        with pytest.raises(StoreError):
            await store.open()


async def test_a_database_that_goes_away_is_unavailable(tmp_path):
    """Nothing is kept, and it is said; when it is back all goes on."""
    with backends.postgres() as server:
        store = SqlStore(await backends.database(server, "gone"), StoredEvent)
        await store.open()
        await store.commit(document(), [])
    with pytest.raises(Unavailable):
        await store.load("call_1")
    with pytest.raises(Unavailable):
        await store.commit(document(version=2), [])
    assert not await store.is_there()
    await store.close()


def test_the_steps_make_the_tables_of_the_schema(tmp_path):
    """Alembic finds nothing that a further step would have to change."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine

    from sfu.store.schema import metadata

    path = tmp_path / "calls.db"

    async def migrate():
        store = SqlStore(f"sqlite+aiosqlite:///{path}", StoredEvent)
        await store.open()
        await store.close()

    asyncio.run(migrate())
    with create_engine(f"sqlite:///{path}").connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


# What is told to others


HOOK = {"id": "w", "url": "http://x/", "types": [], "secret": "s", "created_at": "2026-01-01"}


async def test_deliveries_go_one_by_one_in_order(store):
    """The next when the first is over; one that failed holds up what is behind it."""
    outbox = store.outbox
    await outbox.add_webhook(HOOK)
    await outbox.add_webhook({**HOOK, "id": "only-b", "types": ["type_b"]})
    events = [NewEvent("a", f"evt_{name}", f"type_{name}", {"call": {"id": 1}}) for name in "abc"]
    await store.commit(document(), [*events, *(NewEvent("b", e.event_id, e.type, e.data) for e in events)])
    now = 4e12
    due = {row["webhook_id"]: row for row in await outbox.due_deliveries(now)}
    assert {name: (row["seq"], row["body"]["type"]) for name, row in due.items()} == {
        "w": (1, "type_a"),
        "only-b": (1, "type_b"),
    }
    first = due["w"]
    assert await outbox.take_delivery(first, now + 60)
    assert not await outbox.take_delivery(first, now + 60)
    assert [row["webhook_id"] for row in await outbox.due_deliveries(now)] == ["only-b"]
    await outbox.note_delivery(first, next_at=now + 5, error="no")
    assert [row["webhook_id"] for row in await outbox.due_deliveries(now)] == ["only-b"]
    again = next(row for row in await outbox.due_deliveries(now + 5) if row["webhook_id"] == "w")
    assert (again["seq"], again["attempts"]) == (1, 1)
    await outbox.note_delivery(again, next_at=None, error=None)
    assert next(r["seq"] for r in await outbox.due_deliveries(now) if r["webhook_id"] == "w") == 2
    assert await outbox.replay("w", 1, now) == 3
    assert next(r["seq"] for r in await outbox.due_deliveries(now) if r["webhook_id"] == "w") == 1
    assert [hook["last_seq"] for hook in await outbox.webhooks()] == [3, 1] or [
        hook["last_seq"] for hook in await outbox.webhooks()
    ] == [1, 3]
    await outbox.tidy(now)
    assert await outbox.remove_webhook("w")
    assert [row["webhook_id"] for row in await outbox.due_deliveries(now)] == ["only-b"]


async def test_a_change_that_was_not_kept_is_not_told(sql):
    """One transaction: the row, the event, what is to be told."""
    await sql.outbox.add_webhook(HOOK)
    await sql.commit(document(), [])
    with pytest.raises(Conflict):
        await sql.commit(document(version=7), [event("a")])
    assert await sql.outbox.due_deliveries(4e12) == []
    assert (await sql.outbox.webhooks())[0]["last_seq"] == 0


# Recordings


def recording(number, **more):
    told = {"id": f"rec_{number}", "call_id": f"call_{number}", "state": "sealed", "room": "r"}
    return {**told, "created_at": f"2026-01-0{number}T00:00:00.000Z", "user_ids": ["a", f"u{number}"], **more}


async def ids_of(store, **wanted):
    return [document["id"] for document in await store.recordings.find(Wanted(**wanted))]


async def test_recordings_are_found_by_all_that_is_told_of_them(store):
    for number in (1, 2, 3):
        users = ("a", f"u{number}")
        await store.commit(document(f"call_{number}", users=users), [], at="")
        await store.recordings.put(recording(number, state="failed" if number == 2 else "sealed"))
    assert await ids_of(store) == ["rec_3", "rec_2", "rec_1"]
    assert await ids_of(store, limit=2) == ["rec_3", "rec_2"]
    assert await ids_of(store, before=("2026-01-03T00:00:00.000Z", "rec_3")) == ["rec_2", "rec_1"]
    assert await ids_of(store, call_id="call_2") == ["rec_2"]
    assert await ids_of(store, state="sealed") == ["rec_3", "rec_1"]
    assert await ids_of(store, user_id="u3") == ["rec_3"]
    assert await ids_of(store, user_id="nobody") == []
    assert await ids_of(store, since="2026-01-02T00:00:00.000Z") == ["rec_3", "rec_2"]
    assert await ids_of(store, until="2026-01-02T00:00:00.000Z") == ["rec_1"]


async def test_a_recording_is_changed_by_many_and_nobody_undoes_the_other(store):
    await store.recordings.put(recording(1))
    await asyncio.gather(*(store.recordings.change("rec_1", {f"f{n}": n}) for n in range(8)))
    found = await store.recordings.get("rec_1")
    assert [found[f"f{n}"] for n in range(8)] == list(range(8))
    assert await store.recordings.change("rec_2", {"a": 1}) is None
    assert await store.recordings.get("rec_2") is None


async def test_what_is_held_does_not_change(store):
    await store.recordings.put(recording(1, hold={"by": "ann"}))
    with pytest.raises(Conflict):
        await store.recordings.change("rec_1", {"state": "erasing"}, unless=("hold",))
    assert (await store.recordings.get("rec_1"))["state"] == "sealed"
    await store.recordings.change("rec_1", {"hold": None})
    changed = await store.recordings.change("rec_1", {"state": "erasing"}, unless=("hold",))
    assert changed["state"] == "erasing"


async def test_only_what_is_over_and_sealed_and_not_held_is_erased(store):
    over, later = "2026-02-01T00:00:00.000Z", "2027-01-01T00:00:00.000Z"
    await store.recordings.put(recording(1, keep_until=later))
    await store.recordings.put(recording(2, keep_until=over))
    await store.recordings.put(recording(3, keep_until=over, hold={"by": "ann"}))
    await store.recordings.put(recording(4))
    await store.recordings.put(recording(5, keep_until="2026-01-15T00:00:00.000Z"))
    await store.recordings.put(recording(6, keep_until=over, state="erased"))
    found = await store.recordings.overdue("2026-06-01T00:00:00.000Z", 10)
    assert [document["id"] for document in found] == ["rec_5", "rec_2"]
    await store.recordings.change("rec_3", {"hold": None})
    assert len(await store.recordings.overdue("2026-06-01T00:00:00.000Z", 10)) == 3
    assert len(await store.recordings.overdue("2026-06-01T00:00:00.000Z", 1)) == 1


async def test_every_entry_of_an_audit_trail_holds_the_one_before(store):
    await store.recordings.put(recording(1))
    notes = [
        store.recordings.note(
            "rec_1", at=f"2026-0{n}", action="read", user_id="ann", detail={"b": n, "a": "ë"}
        )
        for n in range(1, 7)
    ]
    await asyncio.gather(*notes)
    await store.recordings.note("rec_2", at="2026", action="read", user_id="ann", detail={})
    trail = await store.recordings.trail("rec_1")
    assert [entry["n"] for entry in trail] == list(range(6))
    assert {entry["detail"]["b"] for entry in trail} == set(range(1, 7))
    before = NOTHING
    for entry in trail:
        assert entry["prev"] == before
        before = entry["hash"]
        assert hash_of(entry) == before
    assert len(await store.recordings.trail("rec_2")) == 1
    assert await store.recordings.trail("rec_3") == []
