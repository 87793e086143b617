"""Frames out of packets: as the encoder made them, or marked as broken.

The packets of tests/data/rtp_payloads are GStreamer's. Where it has no payloader (AV1) or does not use all
fields, they are built here, by the specifications alone.
"""

import hashlib
import io
import json
from base64 import b64decode
from itertools import pairwise
from pathlib import Path

import av
import pytest
from av.bitstream import BitStreamFilterContext
from hypothesis import example, given, settings, strategies as st

from sfu.recorder import depacketize
from sfu.recorder.depacketize import AUDIO_CODECS, VIDEO_CODECS, Frame, depacketizer
from sfu.recorder.reorder import Reorder

DATA = Path(__file__).parents[2] / "data" / "rtp_payloads"

START = b"\0\0\0\1"

# Sequence number, timestamp, marker, payload.
Packet = tuple[int, int, bool, bytes]

# Nobody can tell by a packet of these whether it begins a frame: behind a gap none is certain to be whole.
UNCERTAIN = ("h264", "h264_plain", "av1")


# AV1 by the AOMedia RTP specification, for which Debian's GStreamer has no payloader.


def leb128(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes((value & 127 | 128,)), value >> 7
    return out + bytes((value,))


def obus_of(unit: bytes) -> list[bytes]:
    """Split a temporal unit whose OBUs all have sizes; return them without, and without delimiters."""
    found, at = [], 0
    while at < len(unit):
        head = unit[at : at + (2 if unit[at] & 4 else 1)]
        assert head[0] & 2
        at += len(head)
        size = shift = 0
        while True:
            size |= (unit[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if unit[at - 1] < 128:
                break
        if head[0] >> 3 != 2:
            found.append(bytes((head[0] & ~2,)) + head[1:] + unit[at : at + size])
        at += size
    return found


def sized(obu: bytes) -> bytes:
    """Return an OBU with its size behind its header."""
    head = 2 if obu[0] & 4 else 1
    return bytes((obu[0] | 2,)) + obu[1:head] + leb128(len(obu) - head) + obu[head:]


def av1_payloads(obus: list[bytes], largest: int, *, is_counted: bool, is_key: bool) -> list[bytes]:
    """Fill packets one after the other; `is_counted`: W says how many elements there are, at most three."""
    packets: list[tuple[list[bytes], bool]] = []  # elements, and whether the last goes on
    elements: list[bytes] = []
    room = largest - 1
    for obu in obus:
        at = 0
        while at < len(obu):
            if room < 3 or (is_counted and len(elements) == 3):
                packets.append((elements, at > 0))
                elements, room = [], largest - 1
            piece = obu[at : at + room - 2]
            elements.append(piece)
            room -= len(piece) + 2
            at += len(piece)
    packets.append((elements, False))
    payloads, goes_on = [], False
    for index, (elements, is_cut) in enumerate(packets):
        count = len(elements) if is_counted else 0
        head = goes_on << 7 | is_cut << 6 | count << 4 | (is_key and index == 0) << 3
        body = b"".join(leb128(len(element)) + element for element in elements[: -1 if count else None])
        payloads.append(bytes((head,)) + body + (elements[-1] if count else b""))
        goes_on = is_cut
    return payloads


# Golden packets


class Recording:
    """What one file of tests/data/rtp_payloads tells."""

    def __init__(self, name: str) -> None:
        found = json.loads((DATA / f"{name}.json").read_text())
        self.name, self.codec = name, name.partition("_")[0]
        self.digests = [frame[0] for frame in found["frames"]]
        self.keys = [frame[2] for frame in found["frames"]]
        self.packets: list[Packet] = [
            (number, timestamp, bool(marker), b64decode(payload))
            for number, timestamp, marker, payload in found["packets"]
        ]
        if name == "av1":
            self._packetize([b64decode(frame[3]) for frame in found["frames"]])
        self.timestamps = list(dict.fromkeys(packet[1] for packet in self.packets))

    def _packetize(self, units: list[bytes]) -> None:
        self.digests = []
        number = 65_526
        for index, (unit, is_key) in enumerate(zip(units, self.keys, strict=True)):
            obus = obus_of(unit)
            # Matroska wants the temporal unit without its delimiter, which is two bytes here.
            assert unit[:2] == b"\x12\0"
            self.digests.append(digest(unit[2:]))
            payloads = av1_payloads(obus, 300, is_counted=index % 2 == 0, is_key=is_key)
            for at, payload in enumerate(payloads):
                packet = (number & 0xFFFF, 9000 * index, at == len(payloads) - 1, payload)
                self.packets.append(packet)
                number += 1

    def frame_of(self, position: int) -> int:
        """Return which frame a packet belongs to."""
        return self.timestamps.index(self.packets[position][1])


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


VIDEO = ["vp8", "vp9", "h264", "h264_plain", "av1"]
RECORDINGS = {name: Recording(name) for name in [*VIDEO, "opus", "red"]}


def frames_of(codec: str, packets: list[Packet]) -> list[Frame]:
    """Give packets to a depacketizer through the order of their numbers, as a recorder does."""
    reorder: Reorder[Packet] = Reorder()
    ordered = [found for packet in packets for found in reorder.push(packet[0], packet, 0.0)]
    into = depacketizer(codec)
    found = []
    for (_, timestamp, marker, payload), missing in [*ordered, *reorder.flush()]:
        found += into.push(payload, timestamp, marker=marker, missing=missing > 0)
    return found + into.flush()


def whole(codec: str, *payloads: bytes) -> bytes:
    """Return the one frame of some payloads, which is whole."""
    into = depacketizer(codec)
    found = []
    for index, payload in enumerate(payloads, 1):
        found += into.push(payload, 90, marker=index == len(payloads), missing=False)
    (frame,) = found
    assert (frame.timestamp, frame.is_whole) == (90, True)
    assert into.flush() == []
    return frame.data


@pytest.mark.parametrize("name", RECORDINGS)
def test_frames_are_those_of_the_encoder(name):
    """Byte for byte; of H264 but for the length of start codes, of AV1 without delimiters."""
    recording = RECORDINGS[name]
    frames = frames_of(recording.codec, recording.packets)
    assert [digest(frame.data) for frame in frames] == recording.digests
    assert [frame.timestamp for frame in frames] == recording.timestamps
    assert all(frame.is_whole for frame in frames)


@pytest.mark.parametrize("name", ["vp8", "vp9", "h264", "h264_plain", "av1", "opus", "red"])
def test_keyframes_are_known(name):
    """As the encoder told."""
    recording = RECORDINGS[name]
    frames = frames_of(recording.codec, recording.packets)
    assert [frame.is_key for frame in frames] == recording.keys


@pytest.mark.parametrize(
    ("name", "decoder"),
    [
        ("vp8", "vp8"),
        ("vp9", "vp9"),
        ("h264", "h264"),
        ("h264_plain", "h264"),
        ("av1", "libdav1d"),
        ("opus", "opus"),
        ("red", "opus"),
    ],
)
def test_frames_can_be_decoded(name, decoder):
    """Every one of them."""
    recording = RECORDINGS[name]
    context = av.CodecContext.create(decoder, "r")
    context.thread_count = 1
    if decoder == "opus":
        context.sample_rate, context.layout = 48_000, "stereo"
    decoded = []
    for frame in frames_of(recording.codec, recording.packets):
        decoded += context.decode(av.Packet(frame.data))
    decoded += context.decode(None)
    assert len(decoded) == len(recording.digests)
    if decoder != "opus":
        assert {(frame.width, frame.height) for frame in decoded} == {(160, 120)}


@pytest.mark.parametrize("name", VIDEO)
def test_a_lost_packet_breaks_the_frame_that_it_belonged_to(name):
    """Whichever it is; all others are as they were.

    Of H264 and AV1 nobody can tell to which frame a packet belonged that is missing between two: the frame
    behind the gap may count as broken too, but its bytes are there.
    """
    recording = RECORDINGS[name]
    for lost in range(len(recording.packets)):
        of = recording.frame_of(lost)
        into = depacketizer(recording.codec)
        frames = []
        for position, (_, timestamp, marker, payload) in enumerate(recording.packets):
            if position != lost:
                missing = position == lost + 1
                frames += into.push(payload, timestamp, marker=marker, missing=missing)
        frames += into.flush()
        found = {recording.timestamps.index(frame.timestamp): frame for frame in frames}
        assert len(found) == len(frames)
        assert set(found) >= set(range(len(recording.digests))) - {of}
        broken = {index for index, frame in found.items() if not frame.is_whole}
        ends = recording.packets[lost][2]
        assert broken - {of} <= ({of + 1} if ends and name in UNCERTAIN else set())
        assert of not in found or of in broken
        assert all(
            digest(frame.data) == recording.digests[index] for index, frame in found.items() if index != of
        )


@pytest.mark.parametrize("name", ["opus", "red"])
def test_a_lost_packet_of_sound_is_one_frame(name):
    """All others are whole."""
    recording = RECORDINGS[name]
    for lost in range(len(recording.packets)):
        kept = [packet for index, packet in enumerate(recording.packets) if index != lost]
        frames = frames_of(recording.codec, kept)
        expected = [each for index, each in enumerate(recording.digests) if index != lost]
        assert [digest(frame.data) for frame in frames] == expected
        assert all(frame.is_whole for frame in frames)


@settings(max_examples=150)
@given(st.data(), st.sampled_from(sorted(RECORDINGS)))
def test_what_counts_as_whole_is_what_the_encoder_made(data, name):
    """Whatever is lost, late or comes twice on the way; and no frame is lost of which all packets came."""
    recording = RECORDINGS[name]
    count = len(recording.packets)
    lost = data.draw(st.sets(st.integers(1, count - 1), max_size=data.draw(st.sampled_from((2, 20)))))
    repeated = data.draw(st.lists(st.integers(1, count - 1), max_size=5))
    late = data.draw(st.dictionaries(st.integers(1, count - 1), st.integers(1, 30), max_size=10))
    kept = [index for index in [*range(count), *repeated] if index not in lost]
    kept.sort(key=lambda index: index + late.get(index, 0))
    frames = frames_of(recording.codec, [recording.packets[index] for index in kept])
    found = {recording.timestamps.index(frame.timestamp): frame for frame in frames}
    assert len(found) == len(frames)
    assert list(found) == sorted(found)
    damaged = {recording.frame_of(index) for index in lost}
    for index, expected in enumerate(recording.digests):
        if index not in damaged:
            assert digest(found[index].data) == expected
            assert found[index].is_whole or (name in UNCERTAIN and index - 1 in damaged)
        else:
            assert index not in found or not found[index].is_whole


# What any codec does


@pytest.mark.parametrize("codec", sorted(VIDEO_CODECS | AUDIO_CODECS))
def test_empty_payloads_are_no_frames(codec):
    """Probes for bandwidth; before, between and behind frames."""
    recording = RECORDINGS[codec]
    into = depacketizer(codec)
    found = []
    for _, timestamp, marker, payload in recording.packets:
        found += into.push(payload, timestamp, marker=marker, missing=False)
        found += into.push(b"", timestamp, marker=False, missing=False)
    assert [digest(frame.data) for frame in found] == recording.digests
    assert all(frame.is_whole for frame in found)
    assert into.flush() == []
    assert depacketizer(codec).push(b"", 5, marker=True, missing=True) == []


@pytest.mark.parametrize("codec", sorted(VIDEO_CODECS))
def test_what_is_missing_before_an_empty_payload_is_missing(codec):
    """Of the frame that was begun."""
    recording = RECORDINGS[codec]
    into = depacketizer(codec)
    frame = [packet for packet in recording.packets if packet[1] == recording.packets[0][1]]
    assert len(frame) > 3
    found = into.push(frame[0][3], 7, marker=False, missing=False)
    found += into.push(b"", 7, marker=False, missing=True)
    for _, _, marker, payload in frame[2:]:
        found += into.push(payload, 7, marker=marker, missing=False)
    assert [each.is_whole for each in found] == [False]


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_what_is_missing_before_an_empty_payload_may_belong_to_the_next_frame(codec):
    """Where nobody can tell whether a packet begins a frame."""
    into = depacketizer(codec)
    payload = {"h264": b"\x61slice", "av1": b"\x10\x30slice"}[codec]
    assert into.push(payload, 1, marker=True, missing=False)[0].is_whole
    assert into.push(b"", 1, marker=False, missing=True) == []
    assert not into.push(payload, 2, marker=True, missing=False)[0].is_whole


@pytest.mark.parametrize("codec", sorted(VIDEO_CODECS))
def test_a_frame_without_its_end_is_broken(codec):
    """The next timestamp ends it, or the end of all."""
    payload = {"vp8": b"\x10\0data", "vp9": b"\x08data", "h264": b"\x65data", "av1": b"\x10\x30data"}[codec]
    into = depacketizer(codec)
    assert into.push(payload, 1, marker=False, missing=False) == []
    (first,) = into.push(payload, 2, marker=False, missing=False)
    (second,) = into.flush()
    assert [(frame.timestamp, frame.is_whole) for frame in (first, second)] == [(1, False), (2, False)]
    assert into.flush() == []


@pytest.mark.parametrize(
    ("codec", "payload"),
    [("vp8", "10"), ("vp8", "908005"), ("vp9", "08"), ("vp9", "888005"), ("av1", "00"), ("av1", "1010")],
)
def test_a_frame_of_no_bytes_is_none(codec, payload):
    """A descriptor with nothing behind it is no whole frame."""
    found = depacketizer(codec).push(bytes.fromhex(payload), 1, marker=True, missing=False)
    assert found == []


@pytest.mark.parametrize("codec", sorted(VIDEO_CODECS))
def test_a_frame_does_not_grow_without_end(codec, monkeypatch):
    """What is too large is given out as broken in parts; the frame behind it is whole."""
    monkeypatch.setattr(depacketize, "MAX_FRAME_BYTES", 1000)
    first, later = {
        "vp8": (b"\x10", b"\x00"),
        "vp9": (b"\x08", b"\x00"),
        "h264": (b"\x7c\x85", b"\x7c\x05"),
        "av1": (b"\x50\x30", b"\xd0"),
    }[codec]
    into = depacketizer(codec)
    found = into.push(first + bytes(100), 1, marker=False, missing=False)
    for _ in range(100):
        found += into.push(later + bytes(100), 1, marker=False, missing=False)
    assert all(len(frame.data) < 1200 for frame in found)
    assert found or codec == "av1"  # of which no OBU came whole: there is nothing to give out
    found += into.push(later + bytes(100), 1, marker=True, missing=False)
    assert not any(frame.is_whole for frame in found)
    single = {"vp8": b"\x10ab", "vp9": b"\x08ab", "h264": b"\x65ab", "av1": b"\x10\x30ab"}[codec]
    (last,) = into.push(single, 2, marker=True, missing=False)
    assert last.is_whole


def test_the_end_of_a_large_frame_may_pass_the_limit(monkeypatch):
    """It is looked at before there is more to come."""
    monkeypatch.setattr(depacketize, "MAX_FRAME_BYTES", 1000)
    assert len(whole("vp8", b"\x10" + bytes(999), b"\x00" + bytes(500))) == 1499


def test_only_what_is_known_is_depacketized():
    """Names are those of the codecs that are agreed."""
    assert {"vp8", "vp9", "h264", "av1"} == VIDEO_CODECS
    assert {"opus", "red"} == AUDIO_CODECS
    with pytest.raises(KeyError):
        depacketizer("h265")


steps = st.lists(
    st.tuples(
        st.one_of(
            st.binary(max_size=8),
            st.binary(max_size=60),
            st.builds(
                bytes.__add__, st.sampled_from((b"\x08", b"\xb8", b"\x1c", b"\x18")), st.binary(max_size=40)
            ),
        ),
        st.integers(0, 3),
        st.booleans(),
        st.booleans(),
    ),
    max_size=30,
)


@pytest.mark.parametrize(
    "codec",
    ["vp8", "vp9", "h264", "av1", "opus", "red"],
)
@given(steps=steps)
@example(steps=[(b"\x28", 0, True, False)])
@example(steps=[(b"\xa8", 0, True, False)])
@example(steps=[(b"\x1c", 0, True, False)])
@example(steps=[(b"\x90", 0, True, False)])
def test_no_bytes_are_an_error(codec, steps):
    """Anybody may send anything: frames come out, or none."""
    into = depacketizer(codec)
    found = []
    for payload, timestamp, marker, missing in steps:
        found += into.push(payload, timestamp, marker=marker, missing=missing)
    found += into.flush()
    assert into.flush() == []
    assert {frame.timestamp for frame in found} <= {step[1] for step in steps}
    assert all(frame.data for frame in found if frame.is_whole)


@pytest.mark.parametrize("codec", VIDEO_CODECS)
@given(data=st.data())
@settings(max_examples=60)
def test_no_damaged_packets_are_an_error(codec, data):
    """Cut, or with a byte changed; and the frames behind are whole."""
    packets = RECORDINGS[codec].packets
    at = data.draw(st.integers(0, 5))
    payload = bytearray(packets[at][3][: data.draw(st.integers(6, 20) | st.integers(100, 300))])
    payload[data.draw(st.integers(0, min(len(payload), 6) - 1))] = data.draw(st.integers(0, 255))
    into = depacketizer(codec)
    found = []
    for index, (_, timestamp, marker, original) in enumerate(packets):
        changed = bytes(payload) if index == at else original
        found += into.push(changed, timestamp, marker=marker, missing=False)
    assert [digest(frame.data) for frame in found[-10:]] == RECORDINGS[codec].digests[-10:]


# VP8 (RFC 7741 section 4.2)


@st.composite
def vp8_fields(draw):
    """Any combination of optional fields of a descriptor, without the first byte: (X, bytes)."""
    if not draw(st.booleans()):
        return 0, b""
    has_picture, has_tl0, has_tid, has_key = (draw(st.booleans()) for _ in range(4))
    out = bytes((has_picture << 7 | has_tl0 << 6 | has_tid << 5 | has_key << 4 | draw(st.integers(0, 15)),))
    if has_picture:
        if draw(st.booleans()):
            out += (0x8000 | draw(st.integers(0, 0x7FFF))).to_bytes(2, "big")
        else:
            out += bytes((draw(st.integers(0, 0x7F)),))
    if has_tl0:
        out += draw(st.binary(min_size=1, max_size=1))
    if has_tid or has_key:
        out += draw(st.binary(min_size=1, max_size=1))
    return 0x80, out


@given(st.lists(st.tuples(vp8_fields(), st.binary(min_size=1, max_size=30), st.integers(0, 3)), min_size=1))
def test_vp8_stands_behind_any_descriptor(packets):
    """Optional fields in every combination, in each packet others; reserved bits mean nothing."""
    payloads, partition = [], 0
    for index, ((extended, fields), data, step) in enumerate(packets):
        begins = index == 0 or step > 0
        partition = min(7, partition + (step if index else 0))
        reserved = 0x40 if step == 3 else 0
        first = extended | reserved | (0x20 if step == 2 else 0) | begins << 4 | partition
        payloads.append(bytes((first,)) + fields + data)
    assert whole("vp8", *payloads) == b"".join(data for _, data, _ in packets)


@pytest.mark.parametrize("first", [0x00, 0x11, 0x01, 0x17])
def test_a_vp8_frame_begins_with_its_first_partition(first):
    """Neither the middle of it nor another one does."""
    (frame,) = depacketizer("vp8").push(bytes((first, 1, 2)), 1, marker=True, missing=False)
    assert not frame.is_whole


# VP9 (RFC 9628 section 4.2)


def picture_id(draw) -> bytes:
    if draw(st.booleans()):
        return (0x8000 | draw(st.integers(0, 0x7FFF))).to_bytes(2, "big")
    return bytes((draw(st.integers(0, 0x7F)),))


def structure(draw) -> bytes:
    """Return any scalability structure."""
    layers, has_sizes, has_group = draw(st.integers(1, 8)), draw(st.booleans()), draw(st.booleans())
    out = bytes(((layers - 1) << 5 | has_sizes << 4 | has_group << 3 | draw(st.integers(0, 7)),))
    if has_sizes:
        out += draw(st.binary(min_size=4 * layers, max_size=4 * layers))
    if has_group:
        pictures = draw(st.lists(st.binary(max_size=3), max_size=10))
        out += bytes((len(pictures),))
        for references in pictures:
            tid, up = draw(st.integers(0, 7)), draw(st.booleans())
            out += bytes((tid << 5 | up << 4 | len(references) << 2 | draw(st.integers(0, 3)),)) + references
    return out


@st.composite
def vp9_fields(draw, spatial: int | None = None):
    """Any combination of optional fields of a descriptor: (bits of the first byte, bytes behind it)."""
    has_picture, is_predicted, is_flexible, has_structure = (draw(st.booleans()) for _ in range(4))
    has_layers = spatial is not None or draw(st.booleans())
    first = has_picture << 7 | is_predicted << 6 | has_layers << 5 | is_flexible << 4 | has_structure << 1
    first |= draw(st.integers(0, 1))
    out = picture_id(draw) if has_picture else b""
    if has_layers:
        out += bytes(
            (draw(st.integers(0, 7)) << 5 | (spatial or 0) << 1 | draw(st.sampled_from((0, 1, 16))),)
        )
        if not is_flexible:
            out += draw(st.binary(min_size=1, max_size=1))
    if is_flexible and is_predicted:
        references = draw(st.integers(1, 3))
        for index in range(references):
            out += bytes((draw(st.integers(0, 127)) << 1 | (index < references - 1),))
    return first, out + (structure(draw) if has_structure else b"")


@given(st.lists(st.tuples(vp9_fields(), st.binary(min_size=1, max_size=30)), min_size=1, max_size=6))
def test_vp9_stands_behind_any_descriptor(packets):
    """Optional fields in every combination, in each packet others."""
    payloads = []
    for index, ((first, fields), data) in enumerate(packets):
        edges = (0x08 if index == 0 else 0) | (0x04 if index == len(packets) - 1 else 0)
        payloads.append(bytes((first | edges,)) + fields + data)
    assert whole("vp9", *payloads) == b"".join(data for _, data in packets)


def split_superframe(data: bytes) -> list[bytes]:
    """Split by the index at the end (VP9 bitstream specification, Annex B)."""
    marker = data[-1]
    assert marker >> 5 == 0b110
    width, count = (marker >> 3 & 3) + 1, (marker & 7) + 1
    index = data[-2 - width * count :]
    assert index[0] == marker
    found, at = [], 0
    for each in range(count):
        size = int.from_bytes(index[1 + each * width : 1 + (each + 1) * width], "little")
        found.append(data[at : at + size])
        at += size
    assert at + len(index) == len(data)
    return found


@st.composite
def layered_pictures(draw):
    """One picture of several spatial layers: (layer frames, payloads)."""
    layers, payloads = [], []
    for spatial in range(draw(st.integers(2, 8))):
        pieces = draw(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=3))
        layers.append(b"".join(pieces))
        for index, piece in enumerate(pieces):
            first, fields = draw(vp9_fields(spatial))
            edges = (0x08 if index == 0 else 0) | (0x04 if index == len(pieces) - 1 else 0)
            payloads.append(bytes((first | edges,)) + fields + piece)
    return layers, payloads


@settings(max_examples=60)
@given(layered_pictures())
def test_spatial_layers_of_a_picture_are_one_superframe(picture):
    """Its index tells where each ends."""
    layers, payloads = picture
    assert split_superframe(whole("vp9", *payloads)) == layers


@settings(max_examples=60)
@given(layered_pictures(), st.data())
def test_a_lost_packet_breaks_a_picture_of_layers(picture, data):
    """Of whichever layer; the picture behind it is whole."""
    layers, payloads = picture
    lost = data.draw(st.integers(0, len(payloads) - 1))
    into = depacketizer("vp9")
    found = []
    for timestamp in (1, 2):
        for index, payload in enumerate(payloads):
            if (timestamp, index) != (1, lost):
                marker, missing = index == len(payloads) - 1, timestamp == 1 and index == lost + 1
                found += into.push(payload, timestamp, marker=marker, missing=missing)
    assert [frame.is_whole for frame in found] == [False, True]
    assert split_superframe(found[1].data) == layers


@pytest.mark.parametrize(
    ("size", "width"), [(1, 1), (255, 1), (256, 2), (65_535, 2), (65_536, 3), (1 << 24, 4)]
)
def test_the_index_is_as_wide_as_the_largest_layer_needs(size, width, monkeypatch):
    """Up to four bytes for each size; a filter of FFmpeg splits it as well."""
    monkeypatch.setattr(depacketize, "MAX_FRAME_BYTES", 1 << 26)
    # Both look like keyframes of profile 0, so that the filter can read their headers.
    layers = [b"\x82" + bytes(size - 1), b"\x82small"]
    data = whole("vp9", b"\x28\x00\x00" + layers[0], b"\x28\x02\x00" + layers[1])
    assert len(data) == sum(map(len, layers)) + 2 + 2 * width
    assert split_superframe(data) == layers
    stream = av.open(io.BytesIO(), "w", "matroska").add_stream("libvpx-vp9", rate=30)
    stream.width = stream.height = 64
    split = BitStreamFilterContext("vp9_superframe_split", stream).filter(av.Packet(data))
    assert [bytes(packet) for packet in split] == layers


def test_a_superframe_can_be_decoded():
    """Two frames in one, as layers are, are two frames for a decoder."""
    recording = RECORDINGS["vp9"]
    first, second = (frame.data for frame in frames_of("vp9", recording.packets)[:2])
    data = whole("vp9", b"\x28\x00\x00" + first, b"\x28\x02\x00" + second)
    context = av.CodecContext.create("vp9", "r")
    context.thread_count = 1
    decoded = context.decode(av.Packet(data)) + context.decode(None)
    assert [(frame.width, frame.height) for frame in decoded] == [(160, 120)] * 2


@pytest.mark.parametrize("count", [9, 16, 100, 300])
def test_a_picture_of_more_layers_than_there_can_be_is_broken(count):
    """An index has three bits for their number."""
    into = depacketizer("vp9")
    found = []
    for index in range(count):
        found += into.push(b"\x08data", 1, marker=index == count - 1, missing=False)
    assert not any(frame.is_whole for frame in found)


# H264 (RFC 6184)


@st.composite
def h264_frames(draw):
    """Any NAL units, packed in any way: (units, payloads)."""
    units, payloads = [], []
    for _ in range(draw(st.integers(1, 6))):
        unit = st.builds(
            lambda reference, kind, data: bytes((reference << 5 | kind,)) + data,
            st.integers(0, 3),
            st.integers(1, 23),
            st.binary(min_size=1, max_size=40),
        )
        how = draw(st.sampled_from(("alone", "together", "in parts")))
        if how == "together":
            several = draw(st.lists(unit, min_size=1, max_size=4))
            units += several
            payloads.append(b"\x78" + b"".join(len(each).to_bytes(2, "big") + each for each in several))
            continue
        one = draw(unit)
        units.append(one)
        if how == "alone" or len(one) < 3:
            payloads.append(one)
            continue
        cuts = draw(st.sets(st.integers(2, len(one) - 1), min_size=1, max_size=5))
        for begin, end in pairwise([1, *sorted(cuts), len(one)]):
            edges = (begin == 1) << 7 | (end == len(one)) << 6
            payloads.append(bytes((one[0] & 0xE0 | 28, edges | one[0] & 31)) + one[begin:end])
    return units, payloads


@given(h264_frames())
def test_h264_comes_out_as_a_byte_stream(frame):
    """However its units were packed: alone, several in a packet, one in several."""
    units, payloads = frame
    assert whole("h264", *payloads) == b"".join(START + unit for unit in units)


@pytest.mark.parametrize(
    "payload",
    [
        *(
            "78",
            "780000",
            "780005aabb",
            "780001aa0003bb",
            "79aabb",
            "7aaabb",
            "7baabb",
            "7daabb",
            "60aa",
            "7faa",
        ),
        "7c",
    ],
)
def test_h264_packets_that_contradict_themselves_are_no_whole_frames(payload):
    """Sizes that do not fit, and kinds of packets that nobody agreed on."""
    found = depacketizer("h264").push(bytes.fromhex(payload), 1, marker=True, missing=False)
    assert not any(frame.is_whole for frame in found)


def test_a_frame_with_the_rest_of_a_fragment_is_broken():
    """Nothing of it is given out, neither the unit that came whole; the frame behind it is whole."""
    into = depacketizer("h264")
    found = into.push(b"\x61whole", 1, marker=False, missing=False)
    found += into.push(b"\x7c\x05middle", 1, marker=False, missing=True)
    found += into.push(b"\x7c\x45end", 1, marker=True, missing=False)
    found += into.push(b"\x61next", 2, marker=True, missing=False)
    assert found == [Frame(b"", 1, False, is_whole=False), Frame(START + b"\x61next", 2, False)]


@pytest.mark.parametrize(
    "payloads",
    [
        pytest.param([b"\x7c\x81be", b"\x7c\x81gin", b"\x7c\x41end"], id="begins twice"),
        pytest.param([b"\x7c\xc1all", b"\x7c\x01more", b"\x7c\x41end"], id="goes on behind its end"),
        pytest.param([b"\x7c\x81begin", b"\x7c\x01more"], id="has no end"),
        pytest.param([b"\x7c\x81begin", b"\x61other"], id="another unit before its end"),
        pytest.param([b"\x7c\x81begin", b"\x78\0\2\x61a"], id="several others before its end"),
        pytest.param([b"\x61other", b"\x7c\x01more", b"\x7c\x41end"], id="goes on with nothing"),
        pytest.param([b"\x61other", b"\x7c\x41end"], id="ends what did not begin"),
    ],
)
def test_fragments_that_do_not_fit_each_other_are_no_whole_frame(payloads):
    """Although no packet is missing; the frame behind it is whole."""
    into = depacketizer("h264")
    found = []
    for index, payload in enumerate(payloads, 1):
        found += into.push(payload, 1, marker=index == len(payloads), missing=False)
    assert found == [Frame(b"", 1, False, is_whole=False)]
    assert into.push(b"\x61next", 2, marker=True, missing=False) == [Frame(START + b"\x61next", 2, False)]


def test_a_fragment_that_is_the_whole_unit_is_taken():
    """Nobody should send it so: it begins and ends at once."""
    assert whole("h264", b"\x7c\xc1all", b"\x7c\xc1other") == START + b"\x61all" + START + b"\x61other"


# AV1 (AOMedia RTP specification)

obus = st.builds(
    lambda kind, extension, data: bytes((kind << 3 | (4 if extension else 0),)) + extension + data,
    st.sampled_from((1, 3, 4, 5, 6, 7, 9, 14)),
    st.sampled_from((b"", b"\x28")),
    st.binary(max_size=300),
)


@given(st.lists(obus, min_size=1, max_size=8), st.integers(8, 400), st.booleans(), st.booleans())
def test_av1_comes_out_as_obus_with_sizes(obus, largest, is_counted, is_key):
    """Whole ones and fragments, with and without count of elements, in packets of any size."""
    payloads = av1_payloads(obus, largest, is_counted=is_counted, is_key=is_key)
    assert whole("av1", *payloads) == b"".join(map(sized, obus))


@given(st.lists(obus, min_size=1, max_size=5), st.integers(8, 400), st.booleans())
def test_av1_with_sizes_within_elements_is_taken_as_it_is(obus, largest, is_counted):
    """Nobody should send it so, but it may be sent."""
    with_sizes = [sized(obu) for obu in obus]
    payloads = av1_payloads(with_sizes, largest, is_counted=is_counted, is_key=False)
    assert whole("av1", *payloads) == b"".join(with_sizes)


def test_obus_that_do_not_belong_into_a_file_are_left_out():
    """Temporal delimiters, tile lists and padding."""
    obus = [b"\x10", b"\x08sequence", b"\x40list", b"\x30frame", b"\x78padding"]
    payloads = av1_payloads(obus, 100, is_counted=False, is_key=True)
    assert whole("av1", *payloads) == sized(b"\x08sequence") + sized(b"\x30frame")


@pytest.mark.parametrize("payload", ["0005aabb", "20ff", "00ffffffffffffffffff01aa", "0080"])
def test_av1_packets_that_contradict_themselves_are_no_whole_frames(payload):
    """Lengths that do not fit, and lengths without end."""
    found = depacketizer("av1").push(bytes.fromhex(payload), 1, marker=True, missing=False)
    assert not any(frame.is_whole for frame in found)


def test_an_obu_that_lacks_its_middle_is_no_whole_frame():
    """Its beginning and its end are not put together silently."""
    payloads = av1_payloads([b"\x30" + bytes(100)], 40, is_counted=True, is_key=False)
    assert len(payloads) == 3
    into = depacketizer("av1")
    found = into.push(payloads[0], 1, marker=False, missing=False)
    found += into.push(payloads[2], 1, marker=True, missing=True)
    assert [frame.is_whole for frame in found] == [False]


@pytest.mark.parametrize(
    "payloads",
    [
        pytest.param([b"\x90rest"], id="without its beginning"),
        pytest.param([b"\x10\x30obu", b"\x90rest"], id="goes on behind its end"),
        pytest.param([b"\x50\x30begin"], id="without its end"),
        pytest.param([b"\x50\x30begin", b"\xd0more"], id="goes on without end"),
        pytest.param([b"\x10\x30obu", b"\x60\x02\x30a\x30begin"], id="the second without its end"),
    ],
)
def test_an_obu_without_beginning_or_end_is_no_whole_frame(payloads):
    """Although no packet is missing; the frame behind it is whole."""
    into = depacketizer("av1")
    found = []
    for index, payload in enumerate(payloads, 1):
        found += into.push(payload, 1, marker=index == len(payloads), missing=False)
    assert found == [Frame(b"", 1, False, is_whole=False)]
    assert into.push(b"\x10\x30next", 2, marker=True, missing=False) == [Frame(sized(b"\x30next"), 2, False)]


# Opus with redundancy (RFC 2198)


@given(
    st.lists(st.tuples(st.binary(max_size=60), st.integers(0, 0x3FFF)), max_size=4), st.binary(max_size=100)
)
def test_of_redundant_sound_the_newest_frame_counts(older, newest):
    """Whatever stands before it; an empty one is none."""
    headers = b"".join(
        (1 << 31 | 111 << 24 | offset << 10 | len(data)).to_bytes(4, "big") for data, offset in older
    )
    payload = headers + b"\x6f" + b"".join(data for data, _ in older) + newest
    found = depacketizer("red").push(payload, 5, marker=False, missing=True)
    assert found == ([Frame(newest, 5, True)] if newest else [])


def test_recorded_redundancy_repeats_frames():
    """The packets that are tested with do carry older frames."""
    plain = {payload for *_, payload in RECORDINGS["opus"].packets}
    for *_, payload in RECORDINGS["red"].packets[2:]:
        size = (payload[2] & 3) << 8 | payload[3]
        assert payload[0] & 0x80
        assert payload[5 : 5 + size] in plain


def test_recorded_packets_are_of_all_kinds():
    """Units alone, together and in parts; and all numbers pass 65,535."""
    kinds = {payload[0] & 31 for *_, payload in RECORDINGS["h264"].packets}
    assert kinds >= {1, 24, 28}
    assert {payload[0] & 31 for *_, payload in RECORDINGS["h264_plain"].packets} >= {1, 5, 7, 8, 9, 28}
    heads = [payload[0] for *_, payload in RECORDINGS["av1"].packets]
    assert {head >> 6 for head in heads} >= {0b01, 0b10, 0b11}  # begins, ends, goes on
    assert {head >> 4 & 3 for head in heads} >= {0, 1, 2}
    for recording in RECORDINGS.values():
        assert {0, 65_535} <= {packet[0] for packet in recording.packets}
