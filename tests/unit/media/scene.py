"""Publishers, receivers and an outlet that behaves: what the tests of the plane share."""

import struct
from dataclasses import dataclass, field, replace

from sfu.counters import MediaCounters
from sfu.media import rtcp
from sfu.media.batch import Lane
from sfu.media.codecs import Codec, parameters
from sfu.media.leg import Leg
from sfu.media.negotiation import (
    ABS_SEND_TIME_URI,
    AUDIO_LEVEL_URI,
    MID_URI,
    TRANSPORT_CC_URI,
    Section,
    Sending,
)
from sfu.media.packet import RtpPacket, build
from sfu.media.track import Layer, Track

VP8_KEY, VP8_DELTA = b"\x10\x00key", b"\x10\x01delta"
FEEDBACK = ("nack", "nack pli", "ccm fir", "transport-cc")


def codec(
    payload_type: int, encoding: str, clock_rate: int = 90_000, channels: int = 1, fmtp: str = ""
) -> Codec:
    known = parameters(fmtp)
    return Codec(
        payload_type,
        encoding.lower(),
        encoding,
        clock_rate,
        channels,
        fmtp,
        FEEDBACK if clock_rate == 90_000 and encoding != "rtx" else (),
        int(known["apt"]) if "apt" in known else None,
        known,
    )


VP8, VP8_RTX = codec(96, "VP8"), codec(97, "rtx", fmtp="apt=96")
H264, H264_RTX = codec(102, "H264"), codec(103, "rtx", fmtp="apt=102")
VP9, VP9_RTX = codec(98, "VP9", fmtp="profile-id=0"), codec(99, "rtx", fmtp="apt=98")
OPUS = codec(111, "opus", 48_000, 2)

# A receiver numbers things its own way.
THEIR_VP8, THEIR_RTX = codec(120, "VP8"), codec(121, "rtx", fmtp="apt=120")
THEIR_VP9, THEIR_VP9_RTX = codec(122, "VP9", fmtp="profile-id=0"), codec(123, "rtx", fmtp="apt=122")
SENDING = Sending(5000, 5001, "stream")


def section(**changes: object) -> Section:
    """A video m-line on which somebody publishes VP8."""
    agreed = Section(
        index=0,
        mid="0",
        kind="video",
        receives=True,
        codecs=(VP8, VP8_RTX),
        extensions={1: AUDIO_LEVEL_URI, 3: TRANSPORT_CC_URI, 4: MID_URI},
        reduced_size=True,
    )
    return replace(agreed, **changes)


def slot(**changes: object) -> Section:
    """A video m-line on which somebody receives VP8 under other numbers."""
    agreed = Section(
        index=0,
        mid="9",
        kind="video",
        sends=True,
        codecs=(THEIR_VP8, THEIR_RTX),
        extensions={7: AUDIO_LEVEL_URI},
        sending=SENDING,
        reduced_size=True,
    )
    return replace(agreed, **changes)


ALL_EXTENSIONS = {5: TRANSPORT_CC_URI, 6: ABS_SEND_TIME_URI, 7: AUDIO_LEVEL_URI}


@dataclass
class Outlet:
    """A peer with a path and a key: what is sent to it is kept, decrypted."""

    open: bool = True
    takes: bool = True
    counters: MediaCounters = field(default_factory=MediaCounters)
    sent: list[RtpPacket] = field(default_factory=list)
    compounds: list[bytes] = field(default_factory=list)
    transport_number: int = 0xFFFE
    # Three rows, so that a packet beyond its own is seen.
    buffer: bytearray = field(default_factory=lambda: bytearray(b"\xee" * 3 * 2048))

    def ready(self) -> bool:
        return self.open

    def reserve(self) -> tuple[bytearray, int]:
        return self.buffer, 2048

    def send_rtp(self, length: int) -> bool:
        assert self.buffer[:2048] == b"\xee" * 2048
        assert self.buffer[4096:] == b"\xee" * 2048
        if self.takes:
            self.sent.append(RtpPacket(bytes(self.buffer[2048 : 2048 + length])))
        return self.takes

    def send_rtcp(self, data: bytes) -> None:
        self.compounds.append(data)

    def next_transport_number(self, size: int, now: float) -> int:
        self.transport_number = (self.transport_number + 1) & 0xFFFF
        return self.transport_number

    def lane(self) -> Lane | None:
        return None

    def take_rtcp(self) -> list[rtcp.Rtcp]:
        """What was said in RTCP since this was last asked."""
        said = [packet for compound in self.compounds for packet in rtcp.parse(compound)]
        self.compounds.clear()
        return said

    def take_sent(self) -> list[RtpPacket]:
        sent, self.sent = self.sent, []
        return sent


@dataclass
class Wishes:
    """The publisher's peer, as a track knows it: keyframes that were asked for."""

    asked: list[tuple[Layer, bool]] = field(default_factory=list)

    def __call__(self, layer: Layer, send: bool) -> None:
        self.asked.append((layer, send))

    def sent(self) -> int:
        return sum(send for _, send in self.asked)


def track(
    wishes: Wishes | None = None, kind: str = "video", codecs: tuple[Codec, ...] = (VP8, VP8_RTX)
) -> Track:
    made = Track(
        "t", "0", kind, "camera", name="", muted=False, request_keyframe=wishes if wishes else Wishes()
    )
    made.codecs = {c.payload_type: c for c in codecs}
    made.extensions = {1: AUDIO_LEVEL_URI, 3: TRANSPORT_CC_URI}
    return made


def layer(of: Track, rid: str = "", ssrc: int = 1, now: float = 0.0) -> Layer:
    made = Layer(of, rid, ssrc, 90_000)
    of.add_layer(made, now)
    return made


def offer(leg: Leg, of: Layer, packet: RtpPacket, now: float) -> None:
    """Let a receiver begin with a packet, or go on with it, as a fan-out does."""
    leg.begin(of, packet, now)
    leg.forward(of, packet, now)


def rtp(sequence: int = 1, payload: bytes = VP8_DELTA, **changes: object) -> RtpPacket:
    return RtpPacket(rtp_bytes(sequence, payload, **changes))


def rtp_bytes(
    sequence: int = 1,
    payload: bytes = VP8_DELTA,
    *,
    payload_type: int = 96,
    timestamp: int | None = None,
    ssrc: int = 1,
    marker: int = 0,
    elements: list[tuple[int, bytes]] | None = None,
) -> bytes:
    if timestamp is None:
        timestamp = 3000 * sequence & 0xFFFFFFFF
    return build(payload_type, sequence & 0xFFFF, timestamp, ssrc, payload, marker=marker, elements=elements)


def bye(ssrcs: tuple[int, ...]) -> bytes:
    """A BYE of a client (RFC 3550 section 6.6); we send none, DTLS says goodbye for us."""
    return struct.pack(f"!BBH{len(ssrcs)}I", 0x80 | len(ssrcs), 203, len(ssrcs), *ssrcs)
