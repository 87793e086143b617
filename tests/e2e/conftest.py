"""Chromium and a server, once per file, and people in front of pages of that server."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.support.browser import Person, chromium
from tests.support.process import ServerProcess, server_process

Welcome = Callable[..., Awaitable[Person]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(request: pytest.FixtureRequest) -> AsyncIterator[Browser]:
    """Chromium; its cameras take ten pictures a second unless the file says more: encoding is what costs."""
    fps = getattr(request.module, "CAMERA_FPS", 10)
    async with chromium(f"--use-fake-device-for-media-stream=fps={fps}") as browser:
        yield browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[ServerProcess]:
    async with server_process() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def welcome(browser: Browser, server: ServerProcess) -> AsyncIterator[Welcome]:
    """Open a page for somebody and sign in; every page must come to its end without an error."""
    people: list[Person] = []

    async def come(name: str, url: str = server.url, *, sign_in: bool = True) -> Person:
        person = await Person.arrive(browser, name)
        people.append(person)
        await (person.enter(url) if sign_in else person.page.goto(url))
        return person

    yield come
    for person in people:
        await person.go()
    faults = [fault for person in people for fault in person.faults]
    assert not faults, faults
