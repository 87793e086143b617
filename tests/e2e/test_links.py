"""What a viewer sees behind a link that becomes narrow, one that loses packets, one that was always narrow.

Server, publisher and viewer are each in a network namespace of their own; the publisher's link is a good one.
Each test prints what it saw before it judges.
"""

import asyncio
import itertools
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from playwright.async_api import Browser

from sfu.auth import mint
from tests.support.browser import CHROMIUM, Person, chromium
from tests.support.netlab import SERVER_IP, Lab, LabError, Link
from tests.support.process import ServerProcess, server_process

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The layers of the page's camera, smallest first, and the height of the largest.
RIDS = ("q", "h", "f")
FULL_HEIGHT = 720

# How long the publisher may take until it sends, and a viewer until he sees the largest layer: Chromium
# begins at 300 kbit/s, and if a busy machine spoils its first probes it climbs for half a minute.
START_S = 60.0
# A publisher slower than this cannot keep up on this machine: nothing could be said of the link.
LEAST_FPS = 12
SAMPLE_S = 0.5
# How long a viewer's buffer may take to grow when packets begin to be lost.
GROWTH_S = 2.0

MEGABIT = 1_000_000
# Of the page's own layers the middle one fits into a megabit, and fills half of it only.
FITTING_BPS = {"h": 740_000}
# Less than the smallest layer of the rich camera and the sound.
THIN = 170_000
# How many different pictures the rich camera has.
RICH_FRAMES = 20

SECRET = secrets.token_urlsafe(48)

# Becomes the process that its arguments name: server_process starts Python and nothing else.
_BECOME = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"

# Takes part with the page's own client, without its screens: nobody asks for less than he can get.
_TAKE_PART = """
async ({ token, room, publishes }) => {
  const { SfuClient } = await import("/sfu-client.js");
  const client = new SfuClient({ url: "/ws", token });
  await client.connect();
  const devices = { microphone: publishes, camera: publishes };
  const session = client.joinMedia({ room, audioSlots: 1, videoSlots: 1, ...devices });
  await session.joined;

  const entries = async (type) => [...(await session.pc.getStats()).values()].filter((e) => e.type === type);
  const pick = (entry, names) => Object.fromEntries(names.map((name) => [name, entry?.[name] ?? 0]));

  /** What is published, by rid. */
  const sent = async () => {
    const [pair] = (await entries("candidate-pair")).filter(({ nominated }) => nominated);
    return Object.fromEntries((await entries("outbound-rtp"))
      .filter(({ kind }) => kind === "video")
      .map((entry) => [entry.rid, { ...pick(entry, ["framesSent", "framesPerSecond", "frameHeight",
        "bytesSent", "headerBytesSent", "qualityLimitationReason"]),
        ...pick(pair, ["availableOutgoingBitrate"]) }]));
  };

  const BOTH = ["packetsReceived", "packetsLost", "bytesReceived", "headerBytesReceived",
    "retransmittedPacketsReceived", "retransmittedBytesReceived", "nackCount", "jitterBufferDelay",
    "jitterBufferEmittedCount"];
  const VIDEO = ["framesDecoded", "framesDropped", "framesPerSecond", "frameHeight", "freezeCount",
    "totalFreezesDuration", "pliCount"];
  const AUDIO = ["concealedSamples", "totalSamplesReceived", "fecPacketsReceived", "packetsDiscarded"];
  /** What comes in. */
  const received = async () => {
    const inbound = await entries("inbound-rtp");
    const of = (kind) => inbound.find((entry) => entry.kind === kind && entry.packetsReceived);
    return {
      at: performance.now() / 1000,
      layer: session.slots.find(({ source }) => source === "camera")?.layer ?? null,
      video: pick(of("video"), [...VIDEO, ...BOTH]),
      audio: pick(of("audio"), [...AUDIO, ...BOTH]),
    };
  };

  /** What was on screen. The frames between two callbacks of a page that is late were shown all the same. */
  const seen = { height: 0, heights: [], last: null, gaps: [] };
  const show = (element, source) => {
    const track = session.slots.find((slot) => slot.source === source)?.track;
    if (track && !element.srcObject) element.srcObject = new MediaStream([track]);
  };
  const video = document.createElement("video");
  const audio = document.createElement("audio");
  Object.assign(video, { muted: true, autoplay: true, playsInline: true });
  Object.assign(audio, { autoplay: true });
  Object.assign(video.style, { position: "fixed", inset: "0", width: "100%", zIndex: "1000" });
  document.body.append(video, audio);
  const look = (now, { presentationTime, presentedFrames, height }) => {
    const at = presentationTime / 1000;
    const { last } = seen;
    if (last) seen.gaps.push([at, (at - last.at) / Math.max(1, presentedFrames - last.frames)]);
    if (seen.height !== height) seen.heights.push([at, height]);
    Object.assign(seen, { height, last: { at, frames: presentedFrames } });
    video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);
  const follow = () => {
    show(video, "camera");
    show(audio, "microphone");
  };
  if (!publishes) session.on("change", follow);
  if (!publishes) follow();

  window.guest = { session, seen, sent, received };
}
"""
_LIMIT = """
async (limits) => {
  const sender = guest.session.pc.getSenders().find(({ track }) => track?.kind === "video");
  const parameters = sender.getParameters();
  const set = (encoding) => (encoding.maxBitrate = limits[encoding.rid] ?? encoding.maxBitrate);
  parameters.encodings.forEach(set);
  await sender.setParameters(parameters);
}
"""
_CONNECTED = "() => guest.session.pc.connectionState === 'connected'"
_SENDS = """
async (fps) => Object.values(await guest.sent()).some(({ framesPerSecond }) => framesPerSecond >= fps)
"""
_SHOWN = "height => guest.seen.height === height"
_NOW = "performance.now() / 1000"


@dataclass
class Sample:
    """What the viewer received, and what the publisher had sent, at one moment."""

    received: dict[str, Any]
    sent: dict[str, dict[str, Any]]

    @property
    def at(self) -> float:
        return self.received["at"]

    def rate(self, before: "Sample") -> float:
        """Bits per second of media since then, as on the link: each packet once, with all its headers."""
        return (self._octets() - before._octets()) * 8 / (self.at - before.at)

    def _octets(self) -> int:
        # Beside what the statistics count: IP, UDP and the tag of SRTP.
        return sum(
            kind["bytesReceived"]
            + kind["headerBytesReceived"]
            - kind["retransmittedBytesReceived"]
            + 44 * (kind["packetsReceived"] - kind["retransmittedPacketsReceived"])
            for kind in (self.received["video"], self.received["audio"])
        )

    def loss(self, before: "Sample") -> float:
        """Share of the packets that did not come, as the viewer counts them."""
        received, again, lost = (
            sum(self.gain(before, kind, name) for kind in ("video", "audio"))
            for name in ("packetsReceived", "retransmittedPacketsReceived", "packetsLost")
        )
        return lost / max(1, received - again + lost)

    def gain(self, before: "Sample", kind: str, name: str) -> float:
        """How much a counter of the viewer grew since then."""
        return self.received[kind][name] - before.received[kind][name]

    def frames_sent(self, before: "Sample") -> int:
        """Return how many frames the publisher sent since then in the layer that is shown now."""
        height = self.received["video"]["frameHeight"]
        rid = min(self.sent, key=lambda rid: abs(self.sent[rid]["frameHeight"] - height))
        return self.sent[rid]["framesSent"] - before.sent[rid]["framesSent"]

    def layer_rate(self, before: "Sample", rid: str) -> float:
        """Bits per second that the publisher sent in a layer since then."""
        octets = sum(self.sent[rid][n] - before.sent[rid][n] for n in ("bytesSent", "headerBytesSent"))
        return octets * 8 / (self.at - before.at)


class Show:
    """A publisher and a viewer."""

    def __init__(self, publisher: Person, viewer: Person) -> None:
        self.publisher, self.viewer = publisher, viewer
        self.samples: list[Sample] = []
        self._marks: list[tuple[float, str]] = []

    async def sample(self) -> Sample:
        """Look at both sides at once."""
        received, sent = await asyncio.gather(
            self.viewer.page.evaluate("guest.received()"), self.publisher.page.evaluate("guest.sent()")
        )
        self.samples.append(Sample(received, sent))
        return self.samples[-1]

    async def mark(self, what: str) -> float:
        """Note what happened now, for the time line; return when that was, on the viewer's clock."""
        at = await self.viewer.page.evaluate(_NOW)
        self._marks.append((at, what))
        return at

    async def observe(self, seconds: float) -> list[Sample]:
        """Look at regular intervals, for so long; return all that was seen, the first at once."""
        loop = asyncio.get_running_loop()
        began, first = loop.time(), len(self.samples)
        await self.sample()
        while (ahead := began + seconds - loop.time()) > 0:
            # An interval of observation: nothing is waited for.
            await asyncio.sleep(min(ahead, SAMPLE_S))
            await self.sample()
        return self.samples[first:]

    async def sees_all(self, within_s: float) -> None:
        """See the full picture come; if it does not, tell the time line."""
        loop = asyncio.get_running_loop()
        end, first = loop.time() + within_s, len(self.samples)
        while not await self.viewer.page.evaluate(_SHOWN, FULL_HEIGHT):
            if loop.time() > end:
                await self.tell("the full picture does not come")
                pytest.fail(f"no full picture within {within_s:.0f} s", pytrace=False)
            await self.observe(SAMPLE_S)
        del self.samples[first:]

    async def frozen(self) -> list[tuple[float, float]]:
        """Return when pictures stood still longest, and for how long, the longest first."""
        seen = await self.viewer.page.evaluate("guest.seen")
        now = await self.viewer.page.evaluate(_NOW)
        gaps = [(at, gap) for at, gap in seen["gaps"]]
        if seen["last"]:
            gaps.append((now, now - seen["last"]["at"]))
        return sorted(gaps, key=lambda gap: -gap[1])

    async def heights(self) -> list[tuple[float, int]]:
        """Return when which height came on the screen."""
        return [(at, height) for at, height in await self.viewer.page.evaluate("guest.seen.heights")]

    async def tell(self, title: str) -> None:
        """Print the time line."""
        print(f"\n{title}")
        print(
            "     t  height fps kbit/s  loss layer  publisher: fps of each layer, what holds it back, kbit/s"
        )
        marks = iter([*self._marks, (float("inf"), "")])
        mark = next(marks)
        zero = self.samples[0].at
        shown = self.samples[0]
        for sample in self.samples[1:]:
            while mark[0] < sample.at:
                print(f"{mark[0] - zero:6.1f}  {mark[1]}")
                mark = next(marks)
            if sample.at - shown.at < 0.9 and sample is not self.samples[-1]:
                continue
            video = sample.received["video"]
            fps = " ".join(f"{sample.sent[rid]['framesPerSecond']:.0f}" for rid in RIDS)
            limited = {str(sample.sent[rid]["qualityLimitationReason"]) for rid in RIDS}
            estimate = sample.sent["f"]["availableOutgoingBitrate"] / 1000
            print(
                f"{sample.at - zero:6.1f}  {video['frameHeight']:6} {video['framesPerSecond']:3.0f}"
                f" {sample.rate(shown) / 1000:6.0f} {sample.loss(shown):5.1%} {sample.received['layer']!s:5}"
                f"  {fps}  {'/'.join(sorted(limited))} {estimate:.0f}"
            )
            shown = sample
        first, last = self.samples[0], self.samples[-1]
        rates = ", ".join(f"{rid} {last.layer_rate(first, rid) / 1000:.0f}" for rid in RIDS)
        gaps = ", ".join(f"{gap:.2f} s at {at - zero:.1f}" for at, gap in (await self.frozen())[:3])
        print(
            f"layers sent: {rates} kbit/s; longest without a new picture: {gaps};"
            f" freezeCount +{last.gain(first, 'video', 'freezeCount'):.0f},"
            f" totalFreezesDuration +{last.gain(first, 'video', 'totalFreezesDuration'):.2f} s;"
            f" nack {last.gain(first, 'video', 'nackCount'):.0f},"
            f" pli {last.gain(first, 'video', 'pliCount'):.0f},"
            f" rtx {last.gain(first, 'video', 'retransmittedPacketsReceived'):.0f}"
        )


@pytest.fixture(scope="module")
def lab():
    try:
        with Lab() as lab:
            yield lab
    except LabError as error:
        pytest.fail(f"no laboratory of links: {error}", pytrace=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(lab: Lab) -> AsyncIterator[ServerProcess]:
    command = lab.server.command(sys.executable, "-m", "sfu", "serve")
    settings = {
        "SFU_HTTP__HOST": SERVER_IP,
        "SFU_MEDIA__LISTEN_IP": SERVER_IP,
        "SFU_AUTH__SECRET": SECRET,
    }
    async with server_process("-c", _BECOME, *command, **settings) as server:
        yield server


@pytest.fixture
def rich_camera() -> Iterator[str]:
    """A picture that changes all over all the time: every layer needs all the bits that it may have.

    The pattern of Chromium's own fake camera is content with half of them. Yields the flag for it.
    """
    random = np.random.default_rng(1)
    width, height = 1280, FULL_HEIGHT
    with tempfile.NamedTemporaryFile(suffix=".y4m") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F20:1 Ip A1:1 C420jpeg\n".encode())
        grey = bytes([128]) * (width * height // 2)
        for _ in range(RICH_FRAMES):
            blocks = random.integers(112, 144, (height // 20, width // 20), dtype=np.uint8)
            file.write(b"FRAME\n" + blocks.repeat(20, axis=0).repeat(20, axis=1).tobytes() + grey)
        file.flush()
        yield f"--use-file-for-fake-video-capture={file.name}"


Open = Callable[..., Awaitable[Browser]]


@pytest_asyncio.fixture(loop_scope="module")
async def browse(server: ServerProcess, tmp_path) -> AsyncIterator[Open]:
    """Start Chromium at the far end of a link."""
    async with AsyncExitStack() as stack:

        async def start(link: Link, *flags: str) -> Browser:
            # Cameras are for secure origins; this one is as good as loopback.
            trusted = f"--unsafely-treat-insecure-origin-as-secure={server.url}"
            executable = link.client.script(CHROMIUM, tmp_path)
            return await stack.enter_async_context(chromium(trusted, *flags, executable=executable))

        yield start


Stage = Callable[..., Awaitable[Show]]


@pytest_asyncio.fixture(loop_scope="module")
async def stage(lab: Lab, server: ServerProcess, browse: Open, request) -> AsyncIterator[Stage]:
    """Let somebody publish over a good link, then a viewer come over the link given."""
    people: list[Person] = []
    room = request.node.name

    async def come(name: str, link: Link, *flags: str, publishes: bool) -> Person:
        person = await Person.arrive(await browse(link, *flags), name)
        people.append(person)
        await person.page.goto(server.url)
        token = mint(person.user_id, secret=SECRET, grants={"room": room})
        await person.page.evaluate(_TAKE_PART, {"token": token, "room": room, "publishes": publishes})
        return person

    async def set_up(link: Link, *flags: str, limits: dict[str, int] | None = None) -> Show:
        publisher = await come("Ada", lab.link(), *flags, publishes=True)
        await publisher.until(_SENDS, LEAST_FPS, timeout_s=START_S)
        await publisher.page.evaluate(_LIMIT, limits or {})
        viewer = await come("Bob", link, publishes=False)
        await viewer.until(_CONNECTED)
        return Show(publisher, viewer)

    yield set_up
    for person in people:
        await person.go()
    faults = [fault for person in people for fault in person.faults]
    assert not faults, faults


async def test_narrow_link(lab, stage):
    link = lab.link()
    show = await stage(link)
    await show.sees_all(START_S)
    await show.observe(2)

    link.narrow(300_000)
    narrowed = await show.mark("narrowed to 300 kbit/s")
    before = link.traffic()
    await show.observe(10)
    dropped = link.traffic() - before
    link.widen()
    widened = await show.mark("wide again")
    await show.sees_all(15)
    await show.observe(3)

    await show.tell("a link that becomes narrow")
    heights = await show.heights()
    lower = [at - narrowed for at, height in heights if narrowed < at < widened and height < FULL_HEIGHT]
    full = [at - widened for at, height in heights if at > widened and height == FULL_HEIGHT]
    frozen = (await show.frozen())[0][1]
    print(f"heights: {', '.join(f'{height} at {at - show.samples[0].at:.1f}' for at, height in heights)}")
    print(
        f"lower after {lower[:1]} s, full again after {full[:1]} s; dropped while narrow {dropped.loss:.1%}"
    )
    assert lower, "no smaller picture while the link was narrow"
    assert lower[0] <= 5
    assert full, "not the full picture again within 15 s"
    assert heights[-1][1] == FULL_HEIGHT
    assert frozen <= 1, "the picture stood still"


async def test_lossy_link(lab, stage):
    link = lab.link(delay_s=0.025)
    show = await stage(link)
    await show.sees_all(START_S)

    link.lose(0.05)
    samples = await show.observe(30)
    wire = link.lose(0)

    await show.tell("a link of 50 ms that loses 5 % of what comes down")
    first, last = samples[0], samples[-1]
    video, voice = (
        {name: last.gain(first, kind, name) for name in last.received[kind]} for kind in ("video", "audio")
    )
    # While the viewer's buffer grows, frames are late without being lost: they are counted when it has grown.
    steady = [sample for sample in samples if sample.at - first.at >= GROWTH_S]
    sent = sum(now.frames_sent(before) for before, now in itertools.pairwise(steady))
    decoded = last.gain(steady[0], "video", "framesDecoded")
    share = decoded / sent
    concealed = voice["concealedSamples"] / voice["totalSamplesReceived"]
    print(
        f"wire: {wire.lost / (wire.carried + wire.lost):.1%} lost, late by {wire.late_ms:.2f} ms on average,"
    )
    print(f"      by {wire.latest_ms:.1f} ms at most")
    print(f"video: {decoded} of {sent} frames decoded ({share:.1%}), {brief(video)}")
    print(f"voice: {concealed:.2%} concealed, {brief(voice)}")
    assert video["totalFreezesDuration"] <= 0.5
    assert share >= 0.98
    assert concealed <= 0.01


def brief(gains: dict[str, float]) -> str:
    """What repairs a stream, how often, and how long a frame or sample waits in its buffer on average."""
    waits = gains["jitterBufferDelay"] / max(1, gains["jitterBufferEmittedCount"])
    repairs = ("nackCount", "retransmittedPacketsReceived", "fecPacketsReceived", "packetsDiscarded")
    told = [f"{name} {gains[name]:.0f}" for name in (*repairs, "framesDropped") if name in gains]
    return f"buffered for {waits * 1000:.0f} ms; {', '.join(told)}"


async def test_bottleneck_one_megabit(lab, stage, rich_camera):
    link = lab.link()
    link.narrow(MEGABIT)
    show = await stage(link, rich_camera, limits=FITTING_BPS)
    first = await show.sample()
    at_0_s = link.traffic()
    early = await show.observe(8)
    at_8_s = link.traffic()
    late = await show.observe(8)
    at_16_s = link.traffic()

    await show.tell("a link of 1 Mbit/s")
    # The rate of each two seconds, as a share of the link.
    shares = [
        (now.at - first.at, now.rate(before) / MEGABIT) for before, now in zip(early, early[4:], strict=False)
    ]
    settled = next((at for at, share in shares if share >= 0.75), None)
    share, loss = late[-1].rate(late[0]) / MEGABIT, late[-1].loss(late[0])
    offered = ", ".join(f"{rid} {late[-1].layer_rate(late[0], rid) / 1000:.0f}" for rid in RIDS)
    print(f"3/4 of the link first after {settled and round(settled, 1)} s; after 8 s {share:.1%} of it,")
    print(f"      {loss:.1%} lost; layers sent then: {offered} kbit/s")
    print(
        f"bucket: dropped {(at_8_s - at_0_s).loss:.1%} in the first 8 s, then {(at_16_s - at_8_s).loss:.1%}"
    )
    assert share >= 0.75
    assert loss < 0.03


async def test_link_too_narrow_for_every_frame(lab, stage, rich_camera):
    """The smallest picture is more than the link takes beside the sound: it moves all the same."""
    link = lab.link()
    show = await stage(link, rich_camera)
    await show.sees_all(START_S)
    link.narrow(THIN)
    await show.mark("narrowed")
    await show.observe(11)
    before = link.traffic()
    steady = await show.observe(8)
    dropped = link.traffic() - before

    await show.tell(f"a link of {THIN / 1000:.0f} kbit/s")
    first, last = steady[0], steady[-1]
    seconds = last.at - first.at
    fps = last.gain(first, "video", "framesDecoded") / seconds
    voice = {name: last.gain(first, "audio", name) for name in last.received["audio"]}
    concealed = voice["concealedSamples"] / voice["totalSamplesReceived"]
    offered = last.layer_rate(first, "q") / 1000
    still = max((gap for at, gap in await show.frozen() if at > first.at), default=seconds)
    print(f"{fps:.1f} frames a second of {offered:.0f} kbit/s, none for {still:.2f} s at most;")
    print(f"      {dropped.loss:.1%} dropped by the link")
    print(f"voice: {concealed:.2%} concealed, {brief(voice)}")
    assert fps >= 4
    assert still <= 1.5
    assert concealed <= 0.05
