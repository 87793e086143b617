"""`sfu bench`: a quick load test of a running server, by headless participants over the protocol.

Publishers send noise in the shape of VP8, each frame with the time at its end, and a tone; receivers count
packets and read the times. Nothing is encoded or decoded meanwhile. One process takes some dozens of
receivers: the report tells how busy it was itself, and says so if it was the limit.
"""

import asyncio
import fractions
import json
import math
import secrets
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import av
import numpy as np
from aiortc import RTCRtpReceiver, RTCRtpSender
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.rtp import RtpPacket
from av.audio.codeccontext import AudioCodecContext
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sfu import clock
from sfu.bot.client import Client, Disconnected
from sfu.bot.media import MediaConnection
from sfu.errors import SfuError

WIDTH, HEIGHT, FRAMES_PER_S, CLIP_FRAMES = 640, 360, 25, 100
# A keyframe is as large as so many others.
KEYFRAME_SIZE = 6
SAMPLE_RATE, SAMPLES, AUDIO_BPS = 48_000, 960, 24_000

JOIN_TIMEOUT_S, FIRST_PACKET_TIMEOUT_S = 15.0, 10.0

# Clients that are busier than this were the limit, not the server.
CLIENTS_BUSY = 0.9

# The close code of a socket whose token is not good.
TOKEN_REFUSED = 4401

# Nanoseconds of `time.monotonic`, behind these bytes, at the end of a frame.
_STAMP = struct.Struct("!4sQ")
_STAMP_MARK = b"sfu\x00"


class BenchFailed(Exception):
    """The test could not be run; the message says why, and what to do."""


@dataclass(frozen=True)
class Plan:
    """What is asked for: rates in kbit/s, times in seconds."""

    url: str
    publishers: int
    receivers: int
    # True: every publisher also receives all the others.
    conference: bool
    seconds: int
    video_kbps: int
    audio: bool
    room: str
    joins_per_s: float
    max_loss: float

    @property
    def feeds(self) -> int:
        """How many publishers each receiver takes."""
        return self.publishers - self.conference


# What is sent


def make_clip(kbps: int) -> list[bytes]:
    """Return frames of so many kbit/s that begin like VP8 (RFC 6386 section 9.1) and go on with noise.

    The first says that it is a keyframe, and is several times as large as the others.
    """
    share = kbps * 1000 // 8 * CLIP_FRAMES // FRAMES_PER_S // (CLIP_FRAMES - 1 + KEYFRAME_SIZE)
    random = np.random.default_rng(1)
    # Shown, not a keyframe; shown, a keyframe, its start code and size.
    delta, key = b"\x11\x00\x00", b"\x10\x00\x00\x9d\x01\x2a" + struct.pack("<HH", WIDTH, HEIGHT)
    frames = [key + random.bytes(share * KEYFRAME_SIZE - len(key))]
    return frames + [delta + random.bytes(share - len(delta)) for _ in range(CLIP_FRAMES - 1)]


def encode_tone() -> list[bytes]:
    """Return a second of Opus."""
    encoder = AudioCodecContext.create("libopus", "w")
    assert isinstance(encoder, AudioCodecContext)
    encoder.sample_rate, encoder.layout, encoder.format = SAMPLE_RATE, "stereo", "s16"
    encoder.bit_rate = AUDIO_BPS
    encoder.time_base = fractions.Fraction(1, SAMPLE_RATE)
    tone = (8000 * np.sin(np.arange(SAMPLE_RATE) * (2 * math.pi * 440 / SAMPLE_RATE))).astype(np.int16)
    packets = []
    for at in range(0, SAMPLE_RATE, SAMPLES):
        frame = av.AudioFrame.from_ndarray(tone[at : at + SAMPLES].repeat(2)[None, :], "s16", "stereo")
        frame.sample_rate, frame.pts = SAMPLE_RATE, at
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return packets


class Ring(MediaStreamTrack):
    """Encoded frames, one after the other for ever; `rewind` makes the first the next."""

    def __init__(self, kind: str, frames: list[bytes], frames_per_s: int, clock_rate: int) -> None:
        self.kind = kind
        super().__init__()
        self._frames, self._rate, self._clock_rate = frames, frames_per_s, clock_rate
        self._started = clock.now()
        self._sent = self._at = 0

    def rewind(self) -> None:
        """Begin anew with the keyframe."""
        self._at = 0

    async def recv(self) -> "av.Packet[Any]":
        """Return the next frame when its time has come; a picture carries that time at its end."""
        if self.readyState != "live":
            raise MediaStreamError
        await asyncio.sleep(self._started + self._sent / self._rate - clock.now())
        data = self._frames[self._at]
        if self.kind == "video":
            data += _STAMP.pack(_STAMP_MARK, time.monotonic_ns())
        packet = av.Packet(data)
        packet.pts = self._sent * self._clock_rate // self._rate
        packet.time_base = fractions.Fraction(1, self._clock_rate)
        self._at = (self._at + 1) % len(self._frames)
        self._sent += 1
        return packet


# What is received


class Stream:
    """One SSRC of one receiver, by its sequence numbers."""

    __slots__ = ("first", "highest", "received")

    def __init__(self, sequence: int) -> None:
        self.first = self.highest = sequence
        self.received = 0

    def take(self, sequence: int) -> None:
        self.received += 1
        ahead = (sequence - self.highest + 0x8000 & 0xFFFF) - 0x8000
        self.highest = max(self.highest, self.highest + ahead)

    @property
    def lost(self) -> int:
        return max(0, self.highest - self.first + 1 - self.received)


@dataclass
class Taken:
    """What came to one participant since the measurement began."""

    streams: dict[int, Stream] = field(default_factory=dict)
    octets: int = 0
    late_ms: list[float] = field(default_factory=list)
    has_video: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self) -> None:
        """Forget what came so far."""
        self.streams, self.octets, self.late_ms = {}, 0, []

    def take(self, packet: RtpPacket) -> None:
        """Count a packet."""
        stream = self.streams.get(packet.ssrc)
        if stream is None:
            stream = self.streams[packet.ssrc] = Stream(packet.sequence_number)
        stream.take(packet.sequence_number)
        payload = packet.payload
        self.octets += len(payload)
        if packet.marker and payload[-_STAMP.size : 4 - _STAMP.size] == _STAMP_MARK:
            sent_ns = _STAMP.unpack(payload[-_STAMP.size :])[1]
            self.late_ms.append((time.monotonic_ns() - sent_ns) / 1e6)
            self.has_video.set()


def _count(receiver: RTCRtpReceiver, taken: Taken) -> None:
    """Let a receiver of aiortc count its packets; it neither reorders nor decodes them any more."""

    async def handle(packet: RtpPacket, arrival_time_ms: int) -> None:
        taken.take(packet)

    receiver._handle_rtp_packet = handle  # type: ignore[method-assign]


def _answer_keyframe_requests(sender: RTCRtpSender, track: Ring) -> None:
    """Let a request rewind the clip, because nothing is encoded here."""
    sender._send_keyframe = track.rewind  # type: ignore[method-assign]


@dataclass
class Participant:
    """One of the crowd."""

    name: str
    client: Client
    media: MediaConnection
    taken: Taken = field(default_factory=Taken)
    join_ms: float = 0.0
    first_video_ms: float | None = None


# The run


class Run:
    """The crowd, and what it saw."""

    def __init__(self, plan: Plan, mint: Callable[[str], str] | None, told: Callable[[str], None]) -> None:
        self._plan, self._mint, self._told = plan, mint, told
        parts = urlsplit(plan.url)
        secure = parts.scheme in ("https", "wss")
        self._http = urlunsplit(("https" if secure else "http", parts.netloc, "", "", ""))
        self._ws = urlunsplit(("wss" if secure else "ws", parts.netloc, "/ws", "", ""))
        self._crowd: list[Participant] = []
        self._failed: list[str] = []

    async def _token(self, name: str) -> str:
        if self._mint is not None:
            return self._mint(name)
        async with (
            aiohttp.ClientSession() as http,
            http.post(self._http + "/dev/token", json={"name": name}) as response,
        ):
            if response.status != 200:
                raise BenchFailed("tokens are needed: --config with the server's secret, or SFU_AUTH__SECRET")
            return str((await response.json())["token"])

    async def _metrics(self) -> dict[str, float]:
        """Return the server's own figures; empty where they are not to be had."""
        try:
            async with aiohttp.ClientSession() as http, http.get(self._http + "/metrics") as response:
                text = await response.text() if response.status == 200 else ""
            lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
            return {name: float(value) for name, _, value in lines}
        except (aiohttp.ClientError, ValueError):
            return {}

    async def _join(self, name: str, tracks: list[Ring], feeds: int) -> None:
        client = Client(self._ws, await self._token(name))
        await client.__aenter__()
        member = Participant(name, client, MediaConnection(client, lambda _mid, _frame: None))
        self._crowd.append(member)
        asked_at = time.monotonic()
        slots = {"audio_slots": feeds if self._plan.audio else 0, "video_slots": feeds}
        await member.media.join({"room": self._plan.room}, list(tracks), **slots)
        for transceiver in member.media.connection.getTransceivers():
            _count(transceiver.receiver, member.taken)
            if isinstance(transceiver.sender.track, Ring) and transceiver.kind == "video":
                _answer_keyframe_requests(transceiver.sender, transceiver.sender.track)
        await member.media.connected(JOIN_TIMEOUT_S)
        member.join_ms = (time.monotonic() - asked_at) * 1000
        if feeds and self._crowd[0] is not member:
            async with asyncio.timeout(FIRST_PACKET_TIMEOUT_S):
                await member.taken.has_video.wait()
            member.first_video_ms = (time.monotonic() - asked_at) * 1000

    async def _joined(self, name: str, tracks: list[Ring], feeds: int) -> None:
        try:
            await self._join(name, tracks, feeds)
        except (SfuError, ConnectionError, TimeoutError, aiohttp.ClientError) as error:
            if not any(member.join_ms for member in self._crowd):
                raise
            self._failed.append(f"{name}: {str(error) or type(error).__name__}")

    async def _gather_crowd(self, clip: list[bytes], tone: list[bytes]) -> None:
        plan, tasks = self._plan, []
        everybody = [("publisher", plan.publishers), ("receiver", 0 if plan.conference else plan.receivers)]
        for role, count in everybody:
            for number in range(count):
                tracks = []
                if role == "publisher":
                    tracks = [Ring("video", clip, FRAMES_PER_S, 90_000)]
                    if plan.audio:
                        tracks.insert(0, Ring("audio", tone, SAMPLE_RATE // SAMPLES, SAMPLE_RATE))
                feeds = plan.feeds if role == "receiver" or plan.conference else 0
                self._told(f"{len(self._crowd)} of {plan.publishers + plan.receivers} joined")
                task = asyncio.create_task(self._joined(f"{role}-{number + 1}", tracks, feeds))
                tasks.append(task)
                if not self._crowd:
                    await task  # the first shows whether it works at all
                await asyncio.sleep(1 / plan.joins_per_s)
            await asyncio.gather(*tasks)

    async def run(self) -> dict[str, Any]:
        """Bring the crowd together, measure, and return the report."""
        clip = make_clip(self._plan.video_kbps)
        tone = encode_tone() if self._plan.audio else []
        try:
            await self._gather_crowd(clip, tone)
            before, cpu_before = await self._metrics(), time.process_time()
            began = time.monotonic()
            for member in self._crowd:
                member.taken.begin()
            for second in range(self._plan.seconds):
                self._told(f"measuring, {second + 1} of {self._plan.seconds} s")
                await asyncio.sleep(1)
            elapsed = time.monotonic() - began
            busy = (time.process_time() - cpu_before) / elapsed
            report = self._report(elapsed)
            report["clients_cpu_percent"] = round(busy * 100, 1)
            report["server"] = _server_report(before, await self._metrics(), elapsed)
        finally:
            self._told("leaving")
            await asyncio.gather(*(self._leave(member) for member in self._crowd))
        report["problems"] = problems(report, self._plan)
        report["ok"] = not report["problems"]
        return report

    @staticmethod
    async def _leave(member: Participant) -> None:
        await member.media.close()
        await member.client.close()

    def _report(self, elapsed: float) -> dict[str, Any]:
        streams = [stream for member in self._crowd for stream in member.taken.streams.values()]
        received, lost = sum(s.received for s in streams), sum(s.lost for s in streams)
        takers = [m for m in self._crowd if m.first_video_ms is not None]
        return {
            "url": self._plan.url,
            "room": self._plan.room,
            "publishers": self._plan.publishers,
            "receivers": self._plan.receivers,
            "joined": len(self._crowd) - len(self._failed),
            "failed": self._failed,
            "silent": [member.name for member in takers if not member.taken.streams],
            "seconds": round(elapsed, 2),
            "join_ms": percentiles([m.join_ms for m in self._crowd if m.join_ms], (50, 95, 100)),
            "first_video_ms": percentiles([m.first_video_ms or 0.0 for m in takers], (50, 95, 100)),
            "packets_per_s": round(received / elapsed),
            "mbit_per_s": round(sum(m.taken.octets for m in self._crowd) * 8e-6 / elapsed, 2),
            "packets_lost": lost,
            "loss": round(lost / max(1, lost + received), 6),
            "latency_ms": percentiles([ms for m in self._crowd for ms in m.taken.late_ms], (50, 95, 99)),
        }


def percentiles(values: Sequence[float], wanted: tuple[int, ...]) -> dict[str, float]:
    """Return values at shares of the whole, by name: `p50`; 100 is `max`. Empty for nothing."""
    if not values:
        return {}
    found = np.percentile(values, wanted)
    names = ["max" if share == 100 else f"p{share}" for share in wanted]
    return {name: round(float(value), 2) for name, value in zip(names, found, strict=True)}


def _server_report(before: dict[str, float], after: dict[str, float], elapsed: float) -> dict[str, Any]:
    forwarded = after.get("sfu_packets_forwarded_total", 0) - before.get("sfu_packets_forwarded_total", 0)
    if forwarded <= 0:
        return {}
    cpu_s = after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]
    return {
        "packets_per_s": round(forwarded / elapsed),
        "cpu_percent": round(cpu_s / elapsed * 100, 1),
        "cpu_us_per_packet": round(cpu_s / forwarded * 1e6, 1),
    }


def problems(report: dict[str, Any], plan: Plan) -> list[str]:
    """Return what was not right, in words; empty when all was."""
    found = [f"{failure} did not join" for failure in report["failed"]]
    if report["silent"]:
        found.append(f"nothing came to {', '.join(report['silent'])}")
    if plan.feeds and not report["packets_per_s"]:
        found.append("no packet came to anybody")
    if report["loss"] > plan.max_loss:
        found.append(f"{report['loss']:.2%} of the packets were lost (--max-loss {plan.max_loss:.2%})")
    if report["clients_cpu_percent"] > CLIENTS_BUSY * 100:
        found.append(
            f"this process was {report['clients_cpu_percent']:.0f} % busy: its figures are its own, not the "
            "server's; ask for less, or run several"
        )
    return found


def _print(report: dict[str, Any], console: Console) -> None:
    table = Table(
        title=f"{report['publishers']} sending, {report['receivers']} receiving, {report['seconds']} s",
        title_justify="left",
        show_header=False,
    )

    def told(values: dict[str, float]) -> str:
        return "   ".join(f"{name} {value:.1f}" for name, value in values.items()) or "-"

    table.add_row("joined", str(report["joined"]))
    table.add_row("offer to connected, ms", told(report["join_ms"]))
    table.add_row("offer to first picture, ms", told(report["first_video_ms"]))
    table.add_row("received", f"{report['packets_per_s']} packets/s, {report['mbit_per_s']} Mbit/s")
    table.add_row("lost", f"{report['packets_lost']} ({report['loss']:.3%})")
    table.add_row("latency with these clients', ms", told(report["latency_ms"]))
    server = report["server"]
    if server:
        table.add_row(
            "server", f"{server['cpu_percent']} % of a core, {server['cpu_us_per_packet']} µs a packet"
        )
    table.add_row("these clients", f"{report['clients_cpu_percent']} % of a core")
    console.print(table)


def run(plan: Plan, mint: Callable[[str], str] | None, *, as_json: bool) -> int:
    """Run the test and print its report; `mint` gives a token for a name.

    Returns the exit code: 0 all right, 1 something was not, 2 it could not be run.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("")
            tester = Run(plan, mint, lambda text: progress.update(task, description=text))
            report = asyncio.run(tester.run())
    except (BenchFailed, SfuError, OSError, TimeoutError, aiohttp.ClientError) as error:
        _complain(console, f"sfu: no load test of {plan.url}: {_reason(error)}")
        return 2
    if as_json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        _print(report, Console())
    for problem in report["problems"]:
        _complain(console, f"not right: {problem}")
    return 0 if report["ok"] else 1


def _complain(console: Console, text: str) -> None:
    console.print(text, style="bold red", highlight=False, soft_wrap=True)


def _reason(error: Exception) -> str:
    if isinstance(error, Disconnected) and error.close_code == TOKEN_REFUSED:
        return "the token was refused (4401)"
    if isinstance(error, aiohttp.WSServerHandshakeError):
        return f"its socket answers {error.status}; is the token right?"
    return str(error) or type(error).__name__


def room_name() -> str:
    """Return a name that no other test has."""
    return f"bench-{secrets.token_hex(4)}"
