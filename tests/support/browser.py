"""Chromium pages as people: each in a browser context of its own, with a fake camera and microphone.

Nothing here sleeps to synchronize: conditions are polled inside the page, and a condition that does not come
fails with what the page showed instead.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error as PlaywrightError,
    Locator,
    Page,
    async_playwright,
    expect,
)

CHROMIUM = Path("/usr/bin/chromium")
INSTALLED = CHROMIUM.exists()
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    # Pages take turns on screen: those behind must run as fast as the one in front.
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--disable-background-timer-throttling",
]
WIDE = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}

# How long Chromium waits for the rest of the first keyframe, less a look.
_KEYFRAME_PATIENCE_MS = 140

# How long a condition may take, unless a test says otherwise; far more than it should.
PATIENCE_S = 12.0
_POLL_MS = 50
# The patience of Playwright's own expectations is five seconds unless it is told.
expect.set_options(timeout=PATIENCE_S * 1000)

# Runs in every page before its own scripts: notes what is sent, captured and played, and reads
# the statistics.
_PROBE = """
(() => {
  const sent = {};
  const captures = [];
  const playing = new Set();
  const probe = { sent, captures, rings: 0, views: [], hasRung: false };

  const noteView = () => {
    const view = document.body?.dataset.view;
    if (view && view !== probe.views.at(-1)) probe.views.push(view);
  };
  const views = { subtree: true, childList: true, attributeFilter: ["data-view"] };
  new MutationObserver(noteView).observe(document, views);
  setInterval(() => (probe.hasRung ||= window.sfuDebug?.ringLevel() > 0.01), 50);

  const { send } = WebSocket.prototype;
  WebSocket.prototype.send = function (frame) {
    const { type } = JSON.parse(frame);
    sent[type] = (sent[type] ?? 0) + 1;
    return send.call(this, frame);
  };
  const { mediaDevices } = navigator;
  const getUserMedia = mediaDevices.getUserMedia.bind(mediaDevices);
  mediaDevices.getUserMedia = (wanted) => {
    captures.push(...["audio", "video"].filter((kind) => wanted[kind]));
    return getUserMedia(wanted);
  };
  const { start } = AudioBufferSourceNode.prototype;
  AudioBufferSourceNode.prototype.start = function (...when) {
    playing.add(this);
    probe.rings += 1;
    return start.apply(this, when);
  };
  const { stop } = AudioScheduledSourceNode.prototype;
  AudioScheduledSourceNode.prototype.stop = function (...when) {
    playing.delete(this);
    return stop.apply(this, when);
  };

  const stats = async (type) => {
    const report = await sfuDebug.pc()?.getStats();
    return [...(report?.values() ?? [])].filter((entry) => entry.type === type);
  };
  /** Whether the page is told to ring and does so. A ring has pauses, so the level alone says nothing. */
  probe.ringing = () => document.body.dataset.ringing === "true" && playing.size > 0;
  probe.quiet = () =>
    document.body.dataset.ringing === "false" && playing.size === 0 && sfuDebug.ringLevel() < 0.001;
  /** What has come from a user's source through the slots that it fills now. */
  probe.received = async (user, source) => {
    const session = sfuDebug.session();
    const from = ({ participant_id }) => session.room.participants.get(participant_id)?.user_id === user;
    const slots = (session?.slots ?? []).filter((slot) => slot.source === source && from(slot));
    const mids = slots.map(({ mid }) => mid);
    const entries = (await stats("inbound-rtp")).filter(({ mid }) => mids.includes(mid));
    const sum = (name) => entries.reduce((total, entry) => total + (entry[name] ?? 0), 0);
    return {
      slots: mids.length,
      frames: sum("framesDecoded"),
      packets: sum("packetsReceived"),
      plis: sum("pliCount"),
      energy: sum("totalAudioEnergy"),
      sizes: entries.map(({ frameWidth, frameHeight }) => `${frameWidth}x${frameHeight}`),
    };
  };
  /** Looks until so many more frames are shown: [milliseconds, packets, frames, PLIs] of each. */
  probe.watch = async (user, source, frames, patience, poll) => {
    const looks = [];
    const began = performance.now();
    for (;;) {
      const now = await probe.received(user, source);
      looks.push([Math.round(performance.now() - began), now.packets, now.frames, now.plis]);
      const isSeen = now.frames > looks[0][2] + frames && probe.shows(user, source);
      if (isSeen || looks.at(-1)[0] > patience) return { isSeen, looks };
      await new Promise((resolve) => setTimeout(resolve, poll));
    }
  };
  /** Whether a tile of theirs shows moving pictures: decoded ones alone may be hidden behind the face. */
  probe.shows = (user, source) => {
    const tile = document.querySelector(`[data-tile][data-user="${user}"][data-source="${source}"]`);
    const video = tile?.querySelector("video");
    return Boolean(video && "video" in tile.dataset && video.videoWidth > 0 && !video.paused);
  };
  /** The pictures that this page sends: size, frames and what holds them back, one entry per layer. */
  probe.layers = async () => (await stats("outbound-rtp"))
    .filter(({ kind, packetsSent, frameWidth }) => kind === "video" && packetsSent > 0 && frameWidth)
    .map((entry) => ({
      rid: entry.rid,
      size: `${entry.frameWidth}x${entry.frameHeight}`,
      fps: entry.framesPerSecond,
      frames: entry.framesSent,
      limited: entry.qualityLimitationReason,
    }));
  probe.totals = async () => {
    const entries = await stats("inbound-rtp");
    const sum = (name) => entries.reduce((total, entry) => total + (entry[name] ?? 0), 0);
    return { packets: sum("packetsReceived"), lost: sum("packetsLost") };
  };
  /** What somebody who looks for the cause of a failure wants to know. */
  probe.describe = async () => ({
    view: document.body.dataset.view, ringing: document.body.dataset.ringing, playing: playing.size,
    notice: document.querySelector("[data-testid=notice]").textContent,
    client: sfuDebug.client?.state, session: sfuDebug.session()?.state, sent,
    tiles: [...document.querySelectorAll("[data-tile]")].map(({ dataset }) => ({ ...dataset })),
    slots: sfuDebug.session()?.slots.map(({ track, ...slot }) => slot),
    inbound: (await stats("inbound-rtp")).filter(({ packetsReceived }) => packetsReceived)
      .map(({ mid, packetsReceived, packetsLost, framesReceived, framesDecoded, keyFramesDecoded }) =>
        ({ mid, packetsReceived, packetsLost, framesReceived, framesDecoded, keyFramesDecoded })),
    layers: await probe.layers(),
  });
  window.probe = probe;
})();
"""


@asynccontextmanager
async def chromium(*flags: str, executable: Path = CHROMIUM) -> AsyncIterator[Browser]:
    """Debian's Chromium, headless; skips the test only when it is not installed."""
    if not INSTALLED:
        pytest.skip(f"{CHROMIUM} is missing: apt install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            await browser.close()


class Person:
    """Somebody at a page of the server."""

    def __init__(self, name: str, context: BrowserContext, page: Page) -> None:
        self.name = name
        self.user_id = name.lower()
        self.page = page
        self._context = context
        self._faults: list[str] = []
        self._allowed: list[str] = []
        page.on("pageerror", lambda error: self._faults.append(f"page error: {error}"))
        page.on("crash", lambda _: self._faults.append("the page crashed"))
        page.on("console", self._heard)

    @classmethod
    async def arrive(cls, browser: Browser, name: str, **context_options: Any) -> Self:
        """Open a page for somebody; `enter` signs in."""
        context = await browser.new_context(**{"viewport": WIDE, **context_options})
        context.set_default_timeout(PATIENCE_S * 1000)
        await context.add_init_script(_PROBE)
        return cls(name, context, await context.new_page())

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._faults.append(f"console: {message.text}")

    def allow(self, pattern: str) -> None:
        """Say that the test itself causes console errors like this."""
        self._allowed.append(pattern)

    @property
    def faults(self) -> list[str]:
        """Errors of the page that no test asked for."""
        return [
            f"{self.name}: {fault}"
            for fault in self._faults
            if not any(re.search(pattern, fault) for pattern in self._allowed)
        ]

    async def enter(self, url: str) -> None:
        await self.page.goto(url)
        await self.part("name").fill(self.name)
        await self.part("enter").click()
        await self.views("people")

    async def go(self) -> None:
        """Close the page and its context."""
        with suppress(PlaywrightError):
            await self._context.close()

    # What is on the page.

    def part(self, test_id: str) -> Locator:
        return self.page.locator(f'[data-testid="{test_id}"]')

    def tile(self, user_id: str, source: str = "camera") -> Locator:
        return self.page.locator(f'[data-tile][data-user="{user_id}"][data-source="{source}"]')

    async def tiles(self, user_id: str, count: int, source: str = "camera") -> None:
        """See so many tiles of somebody's source."""
        await self.until(
            """([user, source, count]) => document.querySelectorAll(
                 `[data-tile][data-user="${user}"][data-source="${source}"]`).length === count""",
            [user_id, source, count],
        )

    async def views(self, view: str, timeout_s: float = PATIENCE_S) -> None:
        """See a screen come: signin, people, outgoing, incoming or call."""
        await self.until("view => document.body.dataset.view === view", view, timeout_s=timeout_s)

    async def has_viewed(self, *views: str) -> None:
        """Have seen these screens since the page opened, one after the other, and be at the last."""
        await self.until("views => JSON.stringify(probe.views) === JSON.stringify(views)", list(views))

    async def reads(self, notice: str) -> None:
        """Read a notice."""
        await expect(self.part("notice")).to_have_text(notice)

    async def click(self, test_id: str) -> None:
        await self.part(test_id).click()

    # Calls.

    async def call(self, user_id: str, kind: str = "video") -> None:
        await self.click(f"call-{kind}-{user_id}")

    async def hears_ring(self) -> None:
        """Hear a ring at most 3 s from now."""
        await self.until("() => probe.ringing() && sfuDebug.ringLevel() > 0.01", timeout_s=3)

    async def has_heard_ring(self) -> None:
        """Have heard a ring since the page opened."""
        await self.until("() => probe.hasRung", timeout_s=3)

    async def hears_no_ring(self) -> None:
        """Hear a ring stop."""
        await self.until("() => probe.quiet()", timeout_s=3)

    async def stays_quiet(self, rings: int, for_s: float = 1.0) -> None:
        """Hear nothing for a while, and have rung so often in all."""
        await self.page.evaluate("probe.quietSince = performance.now()")
        await self.until(
            """ms => {
                 if (!probe.quiet()) probe.quietSince = Infinity;
                 return performance.now() - probe.quietSince > ms;
               }""",
            for_s * 1000,
            timeout_s=for_s + 5,
        )
        assert await self.page.evaluate("probe.rings") == rings
        assert await self.page.evaluate("document.body.dataset.ringing") == "false"

    async def offers(self) -> int:
        """How many media.offers this page has sent: 1 is the join, every other a renegotiation."""
        return await self.page.evaluate("probe.sent['media.offer'] ?? 0")

    # Media.

    async def received(self, user_id: str, source: str) -> dict[str, Any]:
        return await self.page.evaluate("([user, source]) => probe.received(user, source)", [user_id, source])

    async def layers(self) -> list[dict[str, Any]]:
        return await self.page.evaluate("probe.layers()")

    async def sees(
        self, user_id: str, frames: int = 8, source: str = "camera", timeout_s: float = PATIENCE_S
    ) -> dict[str, Any]:
        """Decode so many more frames of somebody than up to now, and show them."""
        before = (await self.received(user_id, source))["frames"]
        await self.until(
            """async ([user, source, frames]) =>
                 (await probe.received(user, source)).frames > frames && probe.shows(user, source)""",
            [user_id, source, before + frames],
            timeout_s=timeout_s,
        )
        return await self.received(user_id, source)

    async def sees_promptly(self, user_id: str, source: str = "camera") -> None:
        """See the first pictures of somebody who has just come into a slot, from a keyframe on.

        Chromium asks for one itself (PLI) at once when the first picture is none: then the server sent too
        early. It also asks when nothing has come into a slot for three seconds, which is before the first
        packet, and after 0.2 s in which a keyframe has begun and not ended, where their machine is slow.
        How fast pictures come is measured elsewhere, on a machine that does nothing else.
        Who looks late sees nothing of this: unit tests of legs assert that a slot begins with a keyframe.
        """
        seen = await self.page.evaluate(
            "([user, source, patience, poll]) => probe.watch(user, source, 2, patience, poll)",
            [user_id, source, PATIENCE_S * 1000, _POLL_MS],
        )
        looks = seen["looks"]
        assert seen["isSeen"], looks[-1]
        _, packets, frames, _ = looks[0]
        arrived = next(look for look in looks if look[1] > packets)
        decoded = next(look for look in looks if look[2] > frames)
        asked = next((look for look in looks if look[3] > arrived[3] and look[0] <= decoded[0]), None)
        at_once = asked is not None and asked[0] - arrived[0] < _KEYFRAME_PATIENCE_MS
        assert not at_once, f"the page had to ask for a keyframe: {looks}"

    async def hears(self, user_id: str, packets: int = 30) -> dict[str, Any]:
        """Receive so many more packets of somebody's voice, with sound in them."""
        before = await self.received(user_id, "microphone")
        await self.until(
            """async ([user, packets, energy]) => {
                 const now = await probe.received(user, "microphone");
                 return now.packets > packets && now.energy > energy + 0.001;
               }""",
            [user_id, before["packets"] + packets, before["energy"]],
        )
        return await self.received(user_id, "microphone")

    # Waiting.

    async def until(self, condition: str, arg: Any = None, *, timeout_s: float = PATIENCE_S) -> None:
        """Wait until a function of the page is true.

        Playwright's wait_for_function takes the promise of an async function for true; this one awaits it.
        """
        held = await self.page.evaluate(
            f"""async ([arg, patience, poll]) => {{
                  const holds = {condition};
                  const end = performance.now() + patience;
                  while (!(await holds(arg))) {{
                    if (performance.now() > end) return false;
                    await new Promise((resolve) => setTimeout(resolve, poll));
                  }}
                  return true;
                }}""",
            [arg, timeout_s * 1000, _POLL_MS],
        )
        if held:
            return
        state = await self.page.evaluate("window.sfuDebug && probe.describe()")
        raise AssertionError(
            f"{self.name} waited {timeout_s} s in vain for {condition} with {arg};\n"
            f"faults {self.faults}\n{json.dumps(state, indent=1)}"
        )


class Line:
    """The wire between a page and the server, for HTTP and WebSockets: it can be cut and mended."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @classmethod
    @asynccontextmanager
    async def to(cls, url: str) -> AsyncIterator[Self]:
        host, _, port = url.removeprefix("http://").partition(":")
        line = cls(host, int(port))
        await line.mend()
        try:
            yield line
        finally:
            await line.cut()

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Reset every connection; new ones are refused until `mend`."""
        if self._server:
            self._server.close()
        for end in self._ends:
            end.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server:
            await self._server.wait_closed()
        self._server = None

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        far_reader, far_writer = await asyncio.open_connection(*self._to)
        ends = {writer, far_writer}
        self._ends |= ends
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        finally:
            self._ends -= ends
            for end in ends:
                end.transport.abort()

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()
