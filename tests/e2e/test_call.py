"""Whole calls between pages: two, three, reload, devices, a cut line."""

import asyncio
import os
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.support.browser import PHONE, WIDE, Line, Person

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def connect(caller: Person, callee: Person, kind: str = "video") -> None:
    """Place a call, answer it, and come to the call's screen on both sides."""
    await caller.call(callee.user_id, kind)
    await callee.views("incoming")
    await callee.click("answer")
    await both(caller.views("call"), callee.views("call"))


async def both(*waits):
    """Wait for several people at once."""
    return await asyncio.gather(*waits)


async def sees_what_is_sent(viewer: Person, sender: Person, frames: int) -> None:
    """Decode frames, of a size that the other's camera sends."""
    before = {layer["size"] for layer in await sender.layers()}
    await viewer.sees(sender.user_id, frames)
    picture = await viewer.received(sender.user_id, "camera")
    sent = before | {layer["size"] for layer in await sender.layers()}
    assert picture["slots"] == 1
    assert picture["sizes"][0] in sent, f"{sender.name} sends {sent}"


# Whether a page knows when sound and pictures were taken, on one clock: from the sender reports of each.
_ON_ONE_CLOCK = """
async () => {
  const report = await sfuDebug.pc().getStats();
  const streams = [...report.values()].filter(({ type }) => type === "inbound-rtp");
  const known = streams.filter(({ estimatedPlayoutTimestamp }) => estimatedPlayoutTimestamp > 0);
  return ["audio", "video"].every((kind) => known.some((stream) => stream.kind === kind));
}
"""


@pytest.fixture
def keep_picture(tmp_path):
    """Take a screenshot, also into the directory that SFU_SCREENSHOTS names."""
    directories = [tmp_path]
    if wanted := os.environ.get("SFU_SCREENSHOTS"):
        directories.append(Path(wanted))
        directories[-1].mkdir(parents=True, exist_ok=True)

    async def keep(person: Person, name: str) -> None:
        picture = await person.page.screenshot()
        for directory in directories:
            (directory / name).write_bytes(picture)

    return keep


async def test_two_talk_a_third_is_invited_leaves_and_the_caller_ends(welcome, keep_picture):
    ada, bob = await both(welcome("Ada"), welcome("Bob"))

    await ada.call("bob")
    await bob.views("incoming")
    await both(bob.hears_ring(), ada.hears_ring(), ada.views("outgoing"))
    await expect(ada.page.locator("#outgoing-status")).to_have_text("Ringing…")
    await expect(bob.part("incoming-from")).to_have_text("Ada")
    await keep_picture(bob, "incoming.png")

    await bob.click("answer")
    await both(ada.views("call"), bob.views("call"))
    await both(ada.hears_no_ring(), bob.hears_no_ring())
    await both(
        sees_what_is_sent(ada, bob, 60), sees_what_is_sent(bob, ada, 60), ada.hears("bob"), bob.hears("ada")
    )
    await both(ada.until(_ON_ONE_CLOCK), bob.until(_ON_ONE_CLOCK))
    for person in (ada, bob):
        totals = await person.page.evaluate("probe.totals()")
        assert totals["packets"] > 100
        assert totals["lost"] == 0

    offers = await ada.offers(), await bob.offers()
    assert offers == (1, 1)
    cleo = await welcome("Cleo")
    await ada.click("invite-cleo")
    await cleo.views("incoming")
    await cleo.hears_ring()
    await cleo.click("answer")
    people = (ada, bob, cleo)
    pairs = [(viewer, sender) for viewer in people for sender in people if viewer is not sender]
    await both(*(viewer.tiles(sender.user_id, 1) for viewer, sender in pairs))
    await both(*(viewer.sees_promptly(sender.user_id) for viewer, sender in pairs))
    await both(*(sees_what_is_sent(viewer, sender, 20) for viewer, sender in pairs))
    await both(*(viewer.hears(sender.user_id) for viewer, sender in pairs))
    assert (await ada.offers(), await bob.offers()) == offers, "somebody renegotiated when Cleo joined"
    for person in people:
        await expect(person.page.locator("[data-tile]")).to_have_count(3)
        await person.stays_quiet(rings=1, for_s=0.2)

    await keep_picture(ada, "call.png")
    await ada.page.set_viewport_size(PHONE)
    await ada.sees("bob", 5)
    await keep_picture(ada, "phone.png")
    await ada.page.set_viewport_size(WIDE)

    await cleo.click("leave")
    await cleo.views("people")
    await both(*(person.tiles("cleo", 0) for person in (ada, bob)))
    await both(ada.reads("Cleo left"), bob.reads("Cleo left"))
    await both(ada.sees("bob"), bob.sees("ada"))

    # Cleo again: her new track follows the old one into the same slots.
    await ada.click("invite-cleo")
    await cleo.views("incoming")
    await cleo.click("answer")
    await both(*(person.tiles("cleo", 1) for person in (ada, bob)))
    await both(ada.sees_promptly("cleo"), bob.sees_promptly("cleo"), cleo.sees_promptly("bob"))
    assert (await ada.offers(), await bob.offers()) == offers
    await cleo.click("leave")
    await both(*(person.tiles("cleo", 0) for person in (ada, bob)))

    await expect(ada.part("hangup")).to_have_attribute("aria-label", "End for all")
    await ada.click("hangup")
    await both(ada.views("people"), bob.views("people"))
    await both(ada.reads("Call ended"), bob.reads("Call ended"))
    for person in people:
        await person.stays_quiet(rings=2 if person is cleo else 1, for_s=0.2)
        assert await person.page.evaluate("sfuDebug.session()") is None
        await expect(person.page.locator("[data-tile]")).to_have_count(0)


async def test_a_reloaded_page_comes_back_into_the_call(welcome):
    dora, emil = await both(welcome("Dora"), welcome("Emil"))
    await connect(dora, emil)
    # Long enough for a larger layer to have been taken up: the numbers of the new track start over.
    await both(dora.sees("emil", 60), emil.sees("dora", 60))
    call_id = await dora.page.evaluate("JSON.parse(sessionStorage['sfu.call']).callId")
    first = await dora.tile("emil").get_attribute("data-participant")

    await emil.page.reload()
    await emil.views("call")
    assert await emil.page.evaluate("JSON.parse(sessionStorage['sfu.call']).callId") == call_id
    # The old one may stand beside the new one for a moment; in the end there is one, and it is the new one.
    await dora.until(
        """([user, gone]) => {
             const tiles = [...document.querySelectorAll(`[data-tile][data-user="${user}"]`)];
             return tiles.length === 1 && tiles[0].dataset.participant !== gone;
           }""",
        ["emil", first],
    )
    await both(dora.sees_promptly("emil"), emil.sees_promptly("dora"))
    await both(dora.sees("emil"), emil.sees("dora"), dora.hears("emil"), emil.hears("dora"))
    await both(dora.tiles("emil", 1), emil.tiles("dora", 1))
    assert await dora.offers() == 1
    await emil.stays_quiet(rings=0, for_s=0.2)


async def test_microphone_and_camera_go_off_and_on(welcome):
    fay, gus = await both(welcome("Fay"), welcome("Gus"))
    await connect(fay, gus)
    await both(fay.sees("gus"), gus.sees("fay"))
    tile = gus.tile("fay")

    await expect(tile).to_have_attribute("data-muted", "false")
    await fay.click("mute")
    await expect(tile).to_have_attribute("data-muted", "true")
    await fay.click("mute")
    await expect(tile).to_have_attribute("data-muted", "false")
    await gus.hears("fay")

    await fay.click("camera")
    await expect(tile).not_to_have_attribute("data-video", "")
    assert await fay.page.evaluate("sfuDebug.session().local.track('camera')") is None
    # Whoever comes while the camera is off must also see it come on.
    await gus.page.reload()
    await gus.views("call")
    await gus.tiles("fay", 1)
    await expect(tile).not_to_have_attribute("data-video", "")
    await fay.click("camera")
    await expect(tile).to_have_attribute("data-video", "")
    await gus.sees_promptly("fay")
    await sees_what_is_sent(gus, fay, 15)
    assert await fay.offers() == 1


async def test_a_screen_is_shared_and_taken_away(welcome):
    hal, ida = await both(welcome("Hal"), welcome("Ida"))
    await connect(hal, ida)
    await both(hal.sees("ida"), ida.sees("hal"))

    for _ in range(2):
        await hal.click("screen")
        await ida.tiles("hal", 1, "screen")
        await ida.sees_promptly("hal", "screen")
        await both(ida.sees("hal", 5, "screen"), ida.sees("hal", 5, "camera"))
        await expect(hal.part("screen")).to_have_attribute("aria-label", "Stop sharing your screen")

        await hal.click("screen")
        await ida.tiles("hal", 0, "screen")
        await ida.sees("hal", 5, "camera")
    await ida.tiles("hal", 1)


async def test_a_voice_call_has_no_camera(welcome):
    jan, kim = await both(welcome("Jan"), welcome("Kim"))
    await connect(jan, kim, "voice")
    await both(jan.hears("kim"), kim.hears("jan"))
    for person in (jan, kim):
        assert await person.page.evaluate("probe.captures") == ["audio"]
        assert await person.layers() == []
        await expect(person.page.locator("[data-tile][data-video]")).to_have_count(0)
        totals = await person.page.evaluate("probe.totals()")
        assert totals["lost"] == 0
    await kim.click("hangup")
    await both(jan.views("people"), kim.views("people"))
    await both(jan.reads("Call ended"), kim.reads("Call ended"))


async def test_a_call_outlives_a_cut_line(welcome, server):
    async with Line.to(server.url) as line:
        leo, mia = await both(welcome("Leo"), welcome("Mia", line.url))
        mia.allow(r"WebSocket connection to .* failed|ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET")
        await connect(leo, mia)
        await both(leo.sees("mia"), mia.sees("leo"))
        me = await leo.tile("mia").get_attribute("data-participant")

        await line.cut()
        await expect(mia.part("reconnecting")).to_be_visible()
        # Media has its own way, which is not cut.
        await both(leo.sees("mia"), mia.sees("leo"))
        await leo.click("mute")
        await expect(mia.part("reconnecting")).to_be_visible()

        await line.mend()
        await mia.until("() => sfuDebug.client.state === 'connected'")
        await expect(mia.part("reconnecting")).to_be_hidden()
        assert await mia.page.evaluate("sfuDebug.client.info.resumed") is True
        await mia.until("() => sfuDebug.session().state === 'connected'")
        await both(leo.sees("mia"), mia.sees("leo"), leo.hears("mia"))
        await both(leo.tiles("mia", 1), mia.tiles("leo", 1))
        await expect(leo.tile("mia")).to_have_attribute("data-participant", me)
        await expect(mia.tile("leo")).to_have_attribute("data-muted", "true")

        await line.cut()
        await expect(mia.part("reconnecting")).to_be_visible()
        await leo.click("hangup")
        await leo.views("people")
        await line.mend()
        await mia.views("people")
        await mia.reads("Call ended")
        await expect(mia.part("reconnecting")).to_be_hidden()
