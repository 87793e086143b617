"""Background work that ends with its owner, and whose turn it is."""

import asyncio

import pytest

from sfu import tasks
from sfu.tasks import Turns, end


async def test_who_swallows_the_word_is_told_again(monkeypatch):
    """The way of asyncio.wait_for in Python 3.11, where the result is there already."""
    monkeypatch.setattr(tasks, "AGAIN_S", 0.01)
    told = []

    async def work():
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                told.append("stop")
                if len(told) == 3:
                    raise

    deaf, other = asyncio.create_task(work()), asyncio.create_task(asyncio.Event().wait())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end(deaf, other)
    assert told == ["stop"] * 3
    assert deaf.cancelled()
    assert other.cancelled()


async def test_what_has_ended_or_never_was_is_no_trouble():
    async def work():
        return None

    task = asyncio.create_task(work())
    await task
    await end(task)
    await end()


async def test_those_who_want_the_same_come_one_after_the_other():
    turns, log = Turns(), []

    async def work(name):
        async with turns.of("x"):
            log.append(f"{name} begins")
            await asyncio.sleep(0)
            log.append(f"{name} ends")

    await asyncio.gather(work("a"), work("b"), work("c"))
    assert log == ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]
    assert len(turns) == 0


async def test_those_who_want_different_things_do_not_wait():
    turns, both = Turns(), asyncio.Barrier(2)

    async def work(name):
        async with turns.of(name):
            await both.wait()

    async with asyncio.timeout(1):
        await asyncio.gather(work("x"), work("y"))
    assert len(turns) == 0


async def test_who_fails_or_gives_up_lets_the_next_one_come():
    turns, inside, log = Turns(), asyncio.Event(), []

    async def hold():
        async with turns.of("x"):
            inside.set()
            await asyncio.Event().wait()

    async def wait(name):
        async with turns.of("x"):
            log.append(name)

    holder = asyncio.create_task(hold())
    await inside.wait()
    gives_up, stays = asyncio.create_task(wait("gives up")), asyncio.create_task(wait("stays"))
    await asyncio.sleep(0)
    gives_up.cancel()
    holder.cancel()
    async with asyncio.timeout(1):
        await stays
    assert log == ["stays"]
    with pytest.raises(ZeroDivisionError):
        async with turns.of("x"):
            raise ZeroDivisionError
    assert len(turns) == 0
