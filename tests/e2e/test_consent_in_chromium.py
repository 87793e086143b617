"""Two people are asked whether they may be recorded: one may, of the other nothing is kept."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.support.process import ServerProcess, server_process
from tests.support.recording import SECRET, Recorded, sealed_recordings, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(folder: Path) -> AsyncIterator[ServerProcess]:
    """A server that records every call of who accepts it."""
    async with server_process(
        SFU_AUTH__SECRET=SECRET,
        SFU_RECORDER__PATH=str(folder),
        SFU_RECORDER__MODE="always",
        SFU_RECORDER__CONSENT="require_ack",
    ) as server:
        yield server


async def test_who_says_yes_is_recorded_and_who_says_no_is_not(welcome, folder):
    ada, bob = await asyncio.gather(*(welcome(name) for name in ("Ada", "Bob")))
    await ada.call("bob")
    await bob.views("incoming")
    await bob.click("answer")
    await asyncio.gather(ada.views("call"), bob.views("call"))
    for person in (ada, bob):
        await expect(person.part("consent")).to_be_visible()
        await expect(person.part("recording")).to_have_text("Recording")
    await ada.click("consent-yes")
    await bob.click("consent-no")
    for person in (ada, bob):
        await expect(person.part("consent")).to_be_hidden()
    await bob.sees("ada")

    def ada_is_written() -> bool:
        return any(path.stat().st_size > 50_000 for path in folder.glob("recordings/rec_*/*video*.mkv"))

    await until(ada_is_written)
    await ada.click("hangup")
    await asyncio.gather(ada.views("people"), bob.views("people"))
    found: dict[str, Recorded] = await until(lambda: sealed_recordings(folder))
    (recording,) = found.values()
    assert {file["user_id"] for file in recording.manifest["files"]} == {"ada"}
    said = {event["user_id"]: event["answer"] for event in recording.of("consent")}
    assert said == {"ada": "accepted", "bob": "declined"}
