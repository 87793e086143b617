"""Frames that encoders made, the packets of a sender, and what a player finds in a file."""

import io
import random
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import av

from sfu.media.packet import build
from sfu.recorder.depacketize import Frame
from sfu.recorder.source import Format

FORMATS = {
    96: Format("vp8", 90_000, 1),
    102: Format("h264", 90_000, 1),
    111: Format("opus", 48_000, 2),
    63: Format("red", 48_000, 2),
}

SIZE = (64, 48)

# Every tenth picture is one that needs no other.
KEY_INTERVAL = 10

_ENCODERS = {
    "vp8": ("libvpx", {"deadline": "realtime", "cpu-used": "8"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "h264": ("libx264", {"preset": "ultrafast", "tune": "zerolatency"}),
    "av1": ("libsvtav1", {"preset": "12", "svtav1-params": "pred-struct=1"}),
}


@cache
def pictures(codec: str, count: int = 60, size: tuple[int, int] = SIZE) -> tuple[Frame, ...]:
    """Return frames of a moving picture, thirty a second."""
    name, options = _ENCODERS[codec]
    context = av.CodecContext.create(name, "w")
    context.width, context.height = size
    context.pix_fmt, context.time_base, context.framerate = "yuv420p", Fraction(1, 30), 30
    context.gop_size, context.thread_count, context.options = KEY_INTERVAL, 1, options
    rng, packets = random.Random(1), []
    for index in range(count):
        picture = av.VideoFrame(*size, "yuv420p")
        for plane in picture.planes:
            line = bytes(8 * (rng.randrange(32)) for _ in range(plane.line_size))
            plane.update(line * plane.height)
        picture.pts = index
        packets += context.encode(picture)
    packets += context.encode(None)
    assert len(packets) == count
    return tuple(Frame(bytes(packet), 3000 * packet.pts, packet.is_keyframe) for packet in packets)


@cache
def sounds(count: int = 100) -> tuple[Frame, ...]:
    """Return frames of noise, fifty a second."""
    context = av.CodecContext.create("libopus", "w")
    context.sample_rate, context.layout, context.format = 48_000, "stereo", "s16"
    rng, packets = random.Random(1), []
    for index in range(count):
        noise = av.AudioFrame("s16", "stereo", 960)
        noise.planes[0].update(rng.randbytes(3840))
        noise.sample_rate, noise.pts, noise.time_base = 48_000, 960 * index, Fraction(1, 48_000)
        packets += context.encode(noise)
    return tuple(Frame(bytes(packet), 960 * index, True) for index, packet in enumerate(packets[:count]))


class Sender:
    """Makes the packets of frames: Opus plain or redundant, VP8 in parts."""

    def __init__(self, payload_type: int, sequence: int = 65_500, offset: int = 0) -> None:
        self.payload_type, self.sequence, self.offset = payload_type, sequence, offset
        self._before = b""

    def send(self, frame: Frame) -> list[bytes]:
        """Return the packets of the next frame."""
        name = FORMATS[self.payload_type].name
        if name == "vp8":
            cuts = [*range(0, len(frame.data), 200), len(frame.data)]
            payloads = [
                (b"\0" if start else b"\x10") + frame.data[start:end] for start, end in pairwise(cuts)
            ]
        elif name == "h264":
            payloads = [unit for unit in frame.data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if unit]
        elif name == "red":
            head = (1 << 31 | 111 << 24 | 960 << 10 | len(self._before)).to_bytes(4, "big")
            payloads = [head + b"\x6f" + self._before + frame.data]
            self._before = frame.data
        else:
            payloads = [frame.data]
        packets = []
        for index, payload in enumerate(payloads, 1):
            marker = int(name in ("vp8", "h264") and index == len(payloads))
            timestamp = (frame.timestamp + self.offset) & 0xFFFFFFFF
            packets.append(build(self.payload_type, self.sequence, timestamp, 7, payload, marker=marker))
            self.sequence = (self.sequence + 1) & 0xFFFF
        return packets


class Played(NamedTuple):
    """What a player finds in a file."""

    # When each frame is played, in milliseconds.
    times: list[int]
    packets: list[bytes]
    # How many could be decoded, and how large the pictures are, each size once in order.
    decoded: int
    sizes: list[tuple[int, int]]


def play(data: bytes) -> Played:
    """Open a Matroska file and decode all of it."""
    times, packets, decoded, sizes = [], [], 0, []
    with av.open(io.BytesIO(data)) as container:
        (stream,) = container.streams
        for packet in container.demux(stream):
            if packet.size:
                times.append(round(packet.pts * packet.time_base * 1000))
                packets.append(bytes(packet))
            for frame in packet.decode():
                decoded += 1
                if stream.type == "video" and (frame.width, frame.height) not in sizes:
                    sizes.append((frame.width, frame.height))
    return Played(times, packets, decoded, sizes)
