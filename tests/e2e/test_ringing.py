"""Calls that ring: refused, given up, not heard, and answered on one of two devices."""

import asyncio

import pytest

from tests.support.process import server_process

pytestmark = pytest.mark.asyncio(loop_scope="module")

both = asyncio.gather


async def ring(caller, *devices):
    """Ring a user on all of these devices, and hear it everywhere."""
    await caller.call(devices[0].user_id)
    await both(*(device.views("incoming") for device in devices))
    await both(caller.hears_ring(), *(device.hears_ring() for device in devices))


async def test_the_callee_declines(welcome):
    ada, bob = await both(welcome("Ada"), welcome("Bob"))
    await ring(ada, bob)
    await bob.click("decline")
    await both(ada.views("people"), bob.views("people"))
    await both(ada.hears_no_ring(), bob.hears_no_ring())
    await ada.reads("Bob declined")
    await both(ada.stays_quiet(rings=1), bob.stays_quiet(rings=1))
    await bob.reads("")


async def test_the_caller_gives_up(welcome):
    cleo, dora = await both(welcome("Cleo"), welcome("Dora"))
    await ring(cleo, dora)
    await cleo.click("cancel")
    await both(cleo.views("people"), dora.views("people"))
    await both(cleo.hears_no_ring(), dora.hears_no_ring())
    await both(cleo.reads("Call cancelled"), dora.reads("Cleo cancelled the call"))
    await both(cleo.stays_quiet(rings=1), dora.stays_quiet(rings=1))


async def test_nobody_answers(welcome):
    async with server_process(SFU_CALLS__RING_TIMEOUT_S="2") as impatient:
        emil, fay = await both(welcome("Emil", impatient.url), welcome("Fay", impatient.url))
        await emil.call("fay")
        # It rings for two seconds: what the pages went through is noted in them, and read when it is over.
        await emil.has_viewed("signin", "people", "outgoing", "people")
        await fay.has_viewed("signin", "people", "incoming", "people")
        await both(emil.has_heard_ring(), fay.has_heard_ring())
        await both(emil.hears_no_ring(), fay.hears_no_ring())
        await both(emil.reads("No answer"), fay.reads("Missed call from Emil"))
        await both(emil.stays_quiet(rings=1), fay.stays_quiet(rings=1))
        # The pages go before their server does.
        await both(emil.go(), fay.go())


async def test_two_devices_ring_and_one_answers(welcome):
    gus, desk, phone = await both(welcome("Gus"), welcome("Hana"), welcome("Hana"))
    await ring(gus, desk, phone)
    await phone.click("answer")
    await both(gus.views("call"), phone.views("call"), desk.views("people"))
    await both(gus.hears_no_ring(), desk.hears_no_ring(), phone.hears_no_ring())
    await desk.reads("Answered on another device")
    await both(gus.sees("hana"), phone.sees("gus"))
    await both(*(person.stays_quiet(rings=1) for person in (gus, desk, phone)))
    assert await desk.page.evaluate("sfuDebug.session()") is None
    assert await desk.page.evaluate("probe.captures") == []
