"""Record the offers of tests/data/*.sdp again: `python -m tests.data.record_offers`.

Chromium makes its offers in a page without network; a second connection in the same page
answers them. aiortc makes one offer by itself.
"""

import asyncio
from pathlib import Path

from aiortc import RTCConfiguration, RTCPeerConnection
from playwright.async_api import Page, Playwright, async_playwright

from tests.support.browser import FLAGS

HERE = Path(__file__).parent

# What is done to the connection `pc` before each offer. One tuple is the life of one connection.
STEPS = {
    "audio_video": """
        const stream = await navigator.mediaDevices.getUserMedia({audio: true, video: true});
        for (const track of stream.getTracks())
            pc.addTransceiver(track, {direction: 'sendonly', streams: [stream]});""",
    "add_screen": """
        const screen = document.createElement('canvas').captureStream(5);
        pc.addTransceiver(screen.getVideoTracks()[0], {direction: 'sendonly', streams: [screen]});""",
    "ice_restart": "pc.restartIce();",
    "stopped": "pc.getTransceivers()[2].stop();",
    "recycled": """
        const screen = document.createElement('canvas').captureStream(5);
        pc.addTransceiver(screen.getVideoTracks()[0], {direction: 'sendonly', streams: [screen]});""",
    "simulcast_data": """
        const stream = await navigator.mediaDevices.getUserMedia({audio: true, video: true});
        pc.addTransceiver(stream.getAudioTracks()[0], {direction: 'sendonly', streams: [stream]});
        pc.addTransceiver(stream.getVideoTracks()[0], {direction: 'sendonly', streams: [stream],
            sendEncodings: [{rid: 'q', scaleResolutionDownBy: 4}, {rid: 'h', scaleResolutionDownBy: 2},
                            {rid: 'f'}]});
        pc.createDataChannel('messages');""",
    "slots": """
        for (const kind of ['audio', 'video'])
            for (let i = 0; i < 9; i++) pc.addTransceiver(kind, {direction: 'recvonly'});""",
}
SCENARIOS = (
    ("audio_video", "add_screen", "ice_restart", "stopped", "recycled"),
    ("simulcast_data",),
    ("slots",),
)

_ANSWER_IN_PAGE = """async sdp => {
    window.other ??= new RTCPeerConnection();
    await other.setRemoteDescription({type: 'offer', sdp});
    await other.setLocalDescription();
    return other.localDescription.sdp;
}"""


async def blank_page(playwright: Playwright) -> Page:
    """Return an empty page of Chromium that may use cameras; nothing is fetched for it."""
    browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
    page = await browser.new_page()
    await page.route("**/*", lambda route: route.fulfill(body="<!doctype html>", content_type="text/html"))
    await page.goto("http://localhost/")
    return page


async def begin(page: Page) -> None:
    """Start a new connection in a page."""
    await page.evaluate(
        "() => { window.pc?.close(); window.pc = new RTCPeerConnection(); delete window.other }"
    )


async def offer(page: Page, step: str) -> str:
    """Do a step and return the offer that follows it, as it was set locally."""
    return await page.evaluate(f"""async () => {{
        {STEPS[step]}
        await pc.setLocalDescription();
        return pc.localDescription.sdp;
    }}""")


async def accept(page: Page, answer: str) -> list[tuple[str | None, str | None]]:
    """Give the answer back; return (mid, currentDirection) of every transceiver."""
    found = await page.evaluate(
        """async sdp => {
        await pc.setRemoteDescription({type: 'answer', sdp});
        return pc.getTransceivers().map(t => [t.mid, t.currentDirection]);
    }""",
        answer,
    )
    return [(mid, direction) for mid, direction in found]


async def _record_chromium() -> None:
    async with async_playwright() as playwright:
        page = await blank_page(playwright)
        for steps in SCENARIOS:
            await begin(page)
            for step in steps:
                text = await offer(page, step)
                (HERE / f"chromium_156_{step}.sdp").write_text(text, newline="")
                await accept(page, await page.evaluate(_ANSWER_IN_PAGE, text))
        await page.context.browser.close()


async def _record_aiortc() -> None:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTransceiver("audio")
    pc.addTransceiver("video")
    pc.createDataChannel("messages")
    await pc.setLocalDescription(await pc.createOffer())
    (HERE / "aiortc_1_16_audio_video_data.sdp").write_text(pc.localDescription.sdp, newline="")
    await pc.close()


async def main() -> None:
    """Write all files."""
    await _record_chromium()
    await _record_aiortc()


if __name__ == "__main__":
    asyncio.run(main())
