"""The way to SQLite: what fails is told as SQLAlchemy tells it, and the log does not grow."""

import asyncio
import itertools
import sqlite3
import threading
from contextlib import closing

import pytest
from sqlalchemy import JSON, Column, Integer, MetaData, String, Table, bindparam, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError

from sfu.store import lanes
from sfu.store.lanes import SqliteLane
from sfu.store.prepared import Prepared

things = Table(
    "things",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("name", String),
    Column("document", JSON),
)
ADD = Prepared(insert(things))
GET = Prepared(select(things.c.name, things.c.document).where(things.c.id == bindparam("b_id")))


@pytest.fixture
async def lane(tmp_path):
    lane = SqliteLane(make_url(f"sqlite+aiosqlite:///{tmp_path}/things.db"))
    await lane.write(lambda connection: things.metadata.create_all(connection))
    yield lane
    await lane.close()


def thing(number, **document):
    return {"id": number, "name": f"n{number}", "document": document}


async def get(lane, number):
    return list(await lane.read(lambda connection: GET.rows(connection, {"b_id": number})))


async def test_what_is_added_one_by_one_and_together_is_found(lane):
    await lane.write(lambda connection: ADD.run(connection, thing(1, a=[1, None, "ë"])))
    await lane.write(lambda connection: ADD.run(connection, [thing(2, b=2), thing(3)]))
    assert await get(lane, 1) == [("n1", {"a": [1, None, "ë"]})]
    assert await get(lane, 2) == [("n2", {"b": 2})]
    assert await get(lane, 3) == [("n3", {})]
    assert await get(lane, 4) == []


async def test_sqlalchemy_reads_what_the_driver_wrote_and_the_other_way_round(lane):
    await lane.write(lambda connection: ADD.run(connection, thing(1, a="ë")))
    await lane.write(lambda connection: connection.execute(insert(things), thing(2, b="ö")))
    found = await lane.read(lambda connection: connection.execute(select(things.c.document)).scalars().all())
    assert found == [{"a": "ë"}, {"b": "ö"}]
    assert await get(lane, 2) == [("n2", {"b": "ö"})]


async def test_of_a_transaction_that_fails_nothing_is_kept_and_the_next_one_works(lane):
    def work(connection):
        ADD.run(connection, thing(1))
        ADD.run(connection, thing(1))

    with pytest.raises(IntegrityError):
        await lane.write(work)
    assert await get(lane, 1) == []

    def fail(connection):
        ADD.run(connection, thing(2))
        raise KeyError("on the way")

    with pytest.raises(KeyError):
        await lane.write(fail)
    assert await get(lane, 2) == []
    await lane.write(lambda connection: ADD.run(connection, thing(3)))
    assert len(await get(lane, 3)) == 1


async def test_what_the_driver_refuses_is_an_error_of_the_database(lane):
    with pytest.raises(DBAPIError):
        await lane.write(
            lambda connection: Prepared(text("insert into nothing values (1)")).run(connection, {})
        )
    with pytest.raises(DBAPIError):
        await lane.read(lambda connection: Prepared(text("select * from nothing")).rows(connection, {}))
    await lane.write(lambda connection: ADD.run(connection, thing(1)))
    assert len(await get(lane, 1)) == 1


async def test_a_database_that_another_has_locked_is_an_error_of_the_database(tmp_path, monkeypatch):
    monkeypatch.setattr(lanes, "BUSY_S", 0.01)
    lane = SqliteLane(make_url(f"sqlite+aiosqlite:///{tmp_path}/things.db"))
    await lane.write(lambda connection: things.metadata.create_all(connection))
    with sqlite3.connect(tmp_path / "things.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DBAPIError, match="locked"):
            await lane.write(lambda connection: ADD.run(connection, thing(1)))
        other.execute("COMMIT")
    other.close()
    await lane.write(lambda connection: ADD.run(connection, thing(1)))
    assert len(await get(lane, 1)) == 1
    await lane.close()


async def test_those_who_queue_up_behind_another_process_give_up_together(lane, tmp_path, monkeypatch):
    """Each has waited for as long as the first."""
    monkeypatch.setattr(lanes, "BUSY_S", 0.2)
    with closing(sqlite3.connect(tmp_path / "things.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(2):
            told = await asyncio.gather(
                *(lane.write(lambda connection, n=n: ADD.run(connection, thing(n))) for n in range(50)),
                return_exceptions=True,
            )
    assert {type(error) for error in told} == {DBAPIError}
    await lane.write(lambda connection: ADD.run(connection, thing(1)))


async def test_who_waits_for_another_that_writes_looks_again_soon(lane, tmp_path, monkeypatch):
    """SQLite's own way of waiting would be asleep for up to 100 ms after the other has ended."""
    pauses = []
    with closing(
        sqlite3.connect(tmp_path / "things.db", isolation_level=None, check_same_thread=False)
    ) as other:
        other.execute("BEGIN IMMEDIATE")

        def pause(seconds):
            pauses.append(seconds)
            if len(pauses) == 20:
                other.execute("COMMIT")

        monkeypatch.setattr(lanes.time, "sleep", pause)
        await lane.write(lambda connection: ADD.run(connection, thing(1)))
    assert pauses == [lanes.SOON_S] * 20
    assert len(await get(lane, 1)) == 1


async def test_while_one_waits_for_another_process_others_read(lane, tmp_path, monkeypatch):
    monkeypatch.setattr(lanes, "SHORT_S", 0.0)
    await lane.write(lambda connection: ADD.run(connection, thing(1)))
    with closing(sqlite3.connect(tmp_path / "things.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writing = [
            asyncio.create_task(lane.write(lambda connection, n=n: ADD.run(connection, thing(n))))
            for n in (2, 3)
        ]
        await asyncio.sleep(0)
        assert len(await get(lane, 1)) == 1
        assert not any(task.done() for task in writing)
        other.execute("COMMIT")
        async with asyncio.timeout(5):
            await asyncio.gather(*writing)
    assert (len(await get(lane, 2)), len(await get(lane, 3))) == (1, 1)


async def test_a_reader_sees_what_was_written_since_it_read_last(lane):
    """It keeps its connection, and with it no old state of the file."""
    for number in range(20):
        await lane.write(lambda connection, number=number: ADD.run(connection, thing(number)))
        found = await asyncio.gather(*(get(lane, number) for _ in range(8)))
        assert all(len(rows) == 1 for rows in found)


async def add(lane, numbers):
    for number in numbers:
        await lane.write(lambda connection, number=number: ADD.run(connection, thing(number, x="y" * 3000)))
        await asyncio.sleep(0)  # each is asked by somebody else


@pytest.mark.parametrize("there_already", (512, 4096, None))
async def test_pages_are_small_where_the_file_is_new(tmp_path, there_already):
    path = tmp_path / "pages.db"
    if there_already is not None:
        with closing(sqlite3.connect(path)) as file:
            file.executescript(f"pragma page_size={there_already}; create table other (id); vacuum")
    lane = SqliteLane(make_url(f"sqlite+aiosqlite:///{path}"))
    await lane.write(lambda connection: things.metadata.create_all(connection))
    await lane.close()
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("pragma page_size").fetchone() == (there_already or lanes.PAGE_BYTES,)


async def test_the_log_is_brought_into_the_file_beside_who_writes(lane, tmp_path, monkeypatch):
    """Then it is written from its beginning again, and grows no more, however slow the disk is."""
    monkeypatch.setattr(lanes, "TIDY_WRITES", 10)
    monkeypatch.setattr(lanes, "MAX_LOG_FRAMES", 50)
    monkeypatch.setattr(lanes, "MAX_WRITES_BESIDE", 1_000)
    numbers, log, before = itertools.count(), tmp_path / "things.db-wal", -1
    while log.stat().st_size != before:
        before = log.stat().st_size
        await add(lane, itertools.islice(numbers, 20))
    assert before < 64 << 20
    await lane.close()
    with closing(sqlite3.connect(tmp_path / "things.db")) as file:
        assert file.execute("select count(*) from things").fetchone() == (next(numbers),)


async def test_while_the_disk_hangs_a_bounded_number_is_written(lane, monkeypatch):
    """The others wait until it has taken in what was logged: none of them is lost."""
    monkeypatch.setattr(lanes, "TIDY_WRITES", 10)
    monkeypatch.setattr(lanes, "MAX_WRITES_BESIDE", 50)
    hangs, checkpoint = threading.Event(), lane._checkpoint

    def hang(how):
        assert hangs.wait(60)
        return checkpoint(how)

    monkeypatch.setattr(lane, "_checkpoint", hang)
    await add(lane, range(59))  # nine after the tables, and fifty beside the disk
    more = [asyncio.create_task(add(lane, range(n, n + 10))) for n in range(59, 99, 10)]
    for _ in range(100):
        await asyncio.sleep(0)
    assert (len(await get(lane, 58)), await get(lane, 59)) == (1, [])
    hangs.set()
    await asyncio.gather(*more)
    assert [len(await get(lane, number)) for number in range(99)] == [1] * 99
