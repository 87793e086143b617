"""Record tests/data/rtp_payloads/*.json again: `/usr/bin/python3 tests/data/record_payloads.py`.

GStreamer encodes a few pictures and makes packets of them (of AV1 only frames: Debian 12 has no payloader).
Needs of Debian: gstreamer1.0-tools, gstreamer1.0-plugins-{base,good,bad,ugly}, python3-gi,
gir1.2-gstreamer-1.0, gir1.2-gst-plugins-base-1.0; and the system's Python, that has `gi`.

Each file is an object of
    origin   the pipeline
    frames   of what the encoder made: SHA-256, bytes, whether it is a keyframe (AV1: and the data in base64);
             of H264 with start codes of four bytes throughout
    packets  of what the payloader made of it: sequence number, timestamp, marker (0 or 1), payload in base64
"""

import hashlib
import json
import re
from base64 import b64encode
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402 - only now is it known which

HERE = Path(__file__).parent / "rtp_payloads"

# A ball moves on black: small frames, and a few large ones.
_PICTURES = (
    "videotestsrc num-buffers=12 pattern=ball animation-mode=frames "
    "! video/x-raw,format=I420,width=160,height=120,framerate=10/1"
)
_NOISE = (
    "videotestsrc num-buffers=12 pattern=smpte ! video/x-raw,format=I420,width=160,height=120,framerate=10/1"
)
_SOUND = "audiotestsrc num-buffers=20 samplesperbuffer=960 wave=ticks ! audio/x-raw,rate=48000,channels=2"
_NUMBERS = "seqnum-offset=65526 timestamp-offset=4294900000 ssrc=1"
_BYTES = "video/x-h264,stream-format=byte-stream,alignment=au"
_NO_LAG = "deadline=1 lag-in-frames=0 error-resilient=default keyframe-max-dist=6"

# Name → source and encoder, payloader (none: only frames are kept).
RECORDINGS = {
    "vp8": (
        f"{_NOISE} ! vp8enc {_NO_LAG} token-partitions=1 target-bitrate=120000",
        f"rtpvp8pay mtu=300 picture-id-mode=15-bit picture-id-offset=125 {_NUMBERS}",
    ),
    "vp9": (
        f"{_NOISE} ! vp9enc {_NO_LAG} target-bitrate=120000",
        f"rtpvp9pay mtu=300 picture-id-mode=15-bit {_NUMBERS}",
    ),
    "h264": (
        f"{_NOISE} ! x264enc tune=zerolatency key-int-max=6 bitrate=120 aud=false option-string=slices=2 "
        f"! {_BYTES},profile=constrained-baseline",
        f"rtph264pay mtu=300 aggregate-mode=zero-latency {_NUMBERS}",
    ),
    "h264_plain": (
        f"{_PICTURES} ! x264enc tune=zerolatency key-int-max=6 bitrate=60 aud=true ! {_BYTES},profile=high",
        f"rtph264pay mtu=500 aggregate-mode=none {_NUMBERS}",
    ),
    "av1": (
        f"{_NOISE} ! av1enc cpu-used=8 usage-profile=realtime lag-in-frames=0 keyframe-max-dist=6 "
        "target-bitrate=120 end-usage=cbr ! video/x-av1,stream-format=obu-stream,alignment=tu",
        None,
    ),
    "opus": (f"{_SOUND} ! opusenc bitrate=24000", f"rtpopuspay {_NUMBERS}"),
    "red": (
        f"{_SOUND} ! opusenc bitrate=24000",
        f"rtpopuspay pt=111 {_NUMBERS} ! rtpredenc pt=63 distance=2 allow-no-red-blocks=true",
    ),
}


def _samples(pipeline: Gst.Element, name: str) -> list[tuple[bytes, bool]]:
    """Return what came to a sink: the bytes, and whether it can be decoded by itself."""
    found = []
    while sample := pipeline.get_by_name(name).emit("pull-sample"):
        buffer = sample.get_buffer()
        data = buffer.extract_dup(0, buffer.get_size())
        found.append((bytes(data), not buffer.has_flags(Gst.BufferFlags.DELTA_UNIT)))
    return found


def _long_start_codes(stream: bytes) -> bytes:
    """Return an H264 byte stream with 00 00 00 01 before each NAL unit."""
    return b"".join(b"\0\0\0\1" + unit for unit in re.split(b"\0{2,}\1", stream) if unit)


def _packet(data: bytes) -> list[int | str]:
    """Return sequence number, timestamp, marker and payload of an RTP packet without extensions."""
    assert data[0] == 0x80
    return [
        int.from_bytes(data[2:4], "big"),
        int.from_bytes(data[4:8], "big"),
        data[1] >> 7,
        b64encode(data[12:]).decode(),
    ]


def record(name: str) -> None:
    """Write one file."""
    encoder, payloader = RECORDINGS[name]
    sink = "queue max-size-buffers=0 max-size-bytes=0 max-size-time=0 ! {} appsink sync=false name={}"
    text = f"{encoder} ! tee name=t  t. ! {sink.format('', 'frames')}"
    if payloader:
        text += f"  t. ! {sink.format(payloader + ' !', 'packets')}"
    pipeline = Gst.parse_launch(text)
    pipeline.set_state(Gst.State.PLAYING)
    frames, packets = _samples(pipeline, "frames"), _samples(pipeline, "packets") if payloader else []
    pipeline.set_state(Gst.State.NULL)
    if name.startswith("h264"):
        frames = [(_long_start_codes(data), is_key) for data, is_key in frames]
    lines = {
        "frames": [
            [hashlib.sha256(data).hexdigest(), len(data), is_key]
            + ([] if payloader else [b64encode(data).decode()])
            for data, is_key in frames
        ],
        "packets": [_packet(data) for data, _ in packets],
    }
    origin = f"{Gst.version_string()}: {encoder}" + (f" ! {payloader}" if payloader else "")
    parts = [f'"origin": {json.dumps(origin)}']
    parts += [f'"{key}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]" for key, rows in lines.items()]
    (HERE / f"{name}.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")


def main() -> None:
    """Write all files."""
    Gst.init(None)
    HERE.mkdir(exist_ok=True)
    for name in RECORDINGS:
        record(name)


if __name__ == "__main__":
    main()
