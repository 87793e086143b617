"""The callee's page is reloaded while it rings: what it knows afterwards, the server told it anew."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Route, expect

from tests.support.browser import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")

Welcome = Callable[..., Awaitable[Person]]

both = asyncio.gather


async def ring(caller: Person, callee: Person) -> str:
    """Ring somebody, and hear it on both sides; return the id of the call."""
    await caller.call(callee.user_id)
    await callee.views("incoming")
    await both(caller.hears_ring(), callee.hears_ring())
    await caller.until("() => JSON.parse(sessionStorage['sfu.call']).callId.startsWith('call_')")
    call_id: str = await caller.page.evaluate("JSON.parse(sessionStorage['sfu.call']).callId")
    return call_id


async def rings_again(caller: Person, callee: Person) -> None:
    """The callee's page has been reloaded: it rings as before, for the snapshot told it."""
    await callee.views("incoming")
    await callee.hears_ring()
    await expect(callee.part("incoming-from")).to_have_text(caller.name)
    loaded = await callee.page.evaluate("performance.getEntriesByType('navigation')[0].type")
    assert (loaded, await callee.page.evaluate("sfuDebug.client.info.resumed")) == ("reload", False)
    assert await caller.page.evaluate("document.body.dataset.view") == "outgoing"


@asynccontextmanager
async def reloading(person: Person) -> AsyncIterator[None]:
    """Reload somebody's page; within, the old one is gone and the new one has not begun."""
    reached, may_begin = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        reached.set()
        await may_begin.wait()
        await route.continue_()

    await person.page.route("**/app.js", hold)
    reload = asyncio.create_task(person.page.reload())
    try:
        async with asyncio.timeout(10):
            await reached.wait()
        yield
    finally:
        may_begin.set()
        await reload
        await person.page.unroute("**/app.js", hold)


async def test_the_page_rings_again_and_answers(welcome: Welcome) -> None:
    ada, bob = await both(welcome("Ada"), welcome("Bob"))
    call_id = await ring(ada, bob)
    await bob.page.reload()
    await rings_again(ada, bob)
    await bob.click("answer")
    await both(ada.views("call"), bob.views("call"))
    for person in (ada, bob):
        assert await person.page.evaluate("JSON.parse(sessionStorage['sfu.call']).callId") == call_id
    await both(ada.hears_no_ring(), bob.hears_no_ring())
    await both(ada.sees("bob"), bob.sees("ada"))
    await both(ada.stays_quiet(rings=1), bob.stays_quiet(rings=1))


async def test_the_page_rings_again_until_the_caller_gives_up(welcome: Welcome) -> None:
    cleo, dora = await both(welcome("Cleo"), welcome("Dora"))
    await ring(cleo, dora)
    await dora.page.reload()
    await rings_again(cleo, dora)
    await cleo.click("cancel")
    await both(cleo.views("people"), dora.views("people"))
    await both(cleo.hears_no_ring(), dora.hears_no_ring())
    await dora.reads("Cleo cancelled the call")
    await both(cleo.stays_quiet(rings=1), dora.stays_quiet(rings=1))


async def test_the_caller_gives_up_while_the_page_is_reloaded(welcome: Welcome) -> None:
    emil, fay = await both(welcome("Emil"), welcome("Fay"))
    call_id = await ring(emil, fay)
    async with reloading(fay):
        await emil.click("cancel")
        await emil.views("people")
        await emil.hears_no_ring()
        await emil.reads("Call cancelled")
        # The server has it: what the page is told from now on is that nothing rings.
        state = await emil.page.evaluate(
            "id => sfuDebug.client.request('call.state', { call_id: id })", call_id
        )
        assert (state["call"]["status"], state["call"]["end_reason"]) == ("ended", "cancelled")
        assert await fay.page.evaluate("window.sfuDebug === undefined")
    await fay.until("() => sfuDebug.client?.state === 'connected'")
    # The reply comes behind the snapshot.
    state = await fay.page.evaluate("id => sfuDebug.client.request('call.state', { call_id: id })", call_id)
    assert state["call"]["status"] == "ended"
    await fay.views("people")
    await both(emil.stays_quiet(rings=1), fay.stays_quiet(rings=0))
    assert await fay.page.evaluate("document.body.dataset.view") == "people"
    await expect(fay.part("incoming")).to_be_hidden()
