"""VP8 ids go on where the source before stopped, each in its own width."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from sfu.media.dependency import Told
from sfu.media.picture_ids import PICTURED, Descriptor, FrameNumbers, PictureIds, describe

DATA = Path(__file__).parents[2] / "data"
BEGINS = Told(-1, begins=True, is_sync=False)


def payload(picture: int | None = None, bits: int = 15, tl0: int | None = None) -> bytes:
    """A VP8 payload descriptor with some ids, and a byte of VP8 behind it."""
    flags = (0x80 if picture is not None else 0) | (0x40 if tl0 is not None else 0)
    data = bytes((0x90, flags))
    if picture is not None:
        data += bytes((0x80 | picture >> 8, picture & 0xFF)) if bits == 15 else bytes((picture,))
    if tl0 is not None:
        data += bytes((tl0,))
    return data + b"\x00"


def sent(ids: PictureIds, data: bytes, *, first: bool = False) -> tuple[int, int]:
    """Patch a payload as a leg does; return (picture id, TL0PICIDX) as a receiver reads them."""
    if first:
        ids.switch(describe(data))
    buffer = bytearray(b"HEAD" + data)
    ids.patch(buffer, 4, describe(data))
    assert buffer[:4] == b"HEAD"
    assert len(buffer) == 4 + len(data)
    found = describe(bytes(buffer[4:]))
    assert (found.picture_at, found.picture_bits, found.tl0_at) == (
        describe(data).picture_at,
        describe(data).picture_bits,
        describe(data).tl0_at,
    )
    return found.picture_id, found.tl0_index


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (payload(), Descriptor(0, 0, 0, 0, 0, BEGINS)),
        (payload(5, 7), Descriptor(2, 7, 5, 0, 0, BEGINS)),
        (payload(0x1234), Descriptor(2, 15, 0x1234, 0, 0, BEGINS)),
        (payload(tl0=9), Descriptor(0, 0, 0, 2, 9, BEGINS)),
        (payload(5, 7, 9), Descriptor(2, 7, 5, 3, 9, BEGINS)),
        (payload(0x1234, 15, 9), Descriptor(2, 15, 0x1234, 4, 9, BEGINS)),
    ],
)
def test_ids_are_read_where_they_stand(data, expected):
    """All combinations of RFC 7741 section 4.2."""
    assert describe(data) == expected
    assert describe(memoryview(data)) == expected


@pytest.mark.parametrize("data", [b"", b"\x90", b"\x10\x00", b"\x90\x80", b"\x90\x80\x80", b"\x90\x40"])
def test_short_payloads_have_no_ids(data):
    """Nor has one without the extension."""
    assert describe(data) == Descriptor(0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("08", Descriptor(0, 0, 0, 0, 0)),
        ("8805", Descriptor(1, 7, 5, 0, 0)),
        ("889234", Descriptor(1, 15, 0x1234, 0, 0)),
        ("a8056009aa", Descriptor(1, 7, 5, 3, 9)),
        ("a892346009aa", Descriptor(1, 15, 0x1234, 4, 9)),
        ("b8923460aabb", Descriptor(1, 15, 0x1234, 0, 0)),
    ],
)
def test_ids_of_vp9_are_read_where_they_stand(data, expected):
    """RFC 9628 section 4.2; the last is of the flexible mode, which has no index of the lowest layer."""
    assert describe(bytes.fromhex(data), "vp9") == expected
    assert describe(memoryview(bytes.fromhex(data)), "vp9") == expected


@pytest.mark.parametrize("data", ["", "80", "8892", "a8056009", "a892346009"])
def test_short_payloads_of_vp9_have_what_is_there(data):
    told = describe(bytes.fromhex(data[:-2] if len(data) > 6 else data), "vp9")
    assert told.tl0_at == 0
    assert bool(told.picture_at) == (len(data) > 6)


def test_pictures_of_a_real_encoder_are_counted():
    """A recording of GStreamer's."""
    recorded = json.loads((DATA / "rtp_payloads" / "vp9.json").read_text())
    told = [describe(base64.b64decode(packet[3]), "vp9") for packet in recorded["packets"]]
    numbers = list(dict.fromkeys(one.picture_id for one in told))
    assert numbers == list(range(numbers[0], numbers[0] + len(recorded["frames"])))


@pytest.mark.parametrize("codec", PICTURED)
@given(st.binary(max_size=8))
def test_any_payload_is_described_and_patched(codec, data):
    """No bytes are an error, and nothing outside the payload is written."""
    ids = PictureIds()
    ids.switch(describe(data, codec))
    buffer = bytearray(data + b"TAIL")
    ids.patch(buffer, 0, describe(data, codec))
    assert buffer[len(data) :] == b"TAIL"


def test_the_first_source_keeps_its_ids():
    """There is nothing to go on from."""
    ids = PictureIds()
    assert sent(ids, payload(100, 15, 7), first=True) == (100, 7)
    assert sent(ids, payload(101, 15, 8)) == (101, 8)


@given(
    st.lists(
        st.tuples(st.integers(0, 0x7FFF), st.integers(0, 0xFF), st.integers(1, 30)), min_size=1, max_size=8
    )
)
def test_ids_are_continuous_over_switches(sources):
    """Picture by picture, over the wraps of both."""
    ids, found = PictureIds(), []
    for picture, tl0, count in sources:
        for step in range(count):
            data = payload((picture + step) & 0x7FFF, 15, (tl0 + step) & 0xFF)
            found.append(sent(ids, data, first=step == 0))
    first = found[0]
    assert found == [((first[0] + n) & 0x7FFF, (first[1] + n) & 0xFF) for n in range(len(found))]


@given(st.lists(st.tuples(st.integers(0, 0x7F), st.integers(1, 30)), min_size=1, max_size=8))
def test_short_ids_are_continuous_over_switches(sources):
    """Seven bits wrap at seven bits."""
    ids, found = PictureIds(), []
    for picture, count in sources:
        for step in range(count):
            found.append(sent(ids, payload((picture + step) & 0x7F, 7), first=step == 0)[0])
    assert found == [(found[0] + n) & 0x7F for n in range(len(found))]


def test_the_packets_of_one_picture_share_its_id():
    """And a late one does not move the mark."""
    ids = PictureIds()
    assert [
        sent(ids, payload(p, tl0=t), first=i == 0) for i, (p, t) in enumerate(((9, 3), (9, 3), (8, 2)))
    ] == [
        (9, 3),
        (9, 3),
        (8, 2),
    ]
    assert sent(ids, payload(500, tl0=50), first=True) == (10, 4)


def test_a_source_without_ids_leaves_the_mark():
    """The next one with ids goes on from it."""
    ids = PictureIds()
    sent(ids, payload(9, tl0=3), first=True)
    sent(ids, payload(), first=True)
    assert sent(ids, payload(500, tl0=50), first=True) == (10, 4)


def test_a_short_id_goes_on_from_a_long_one():
    """As far as seven bits can say."""
    ids = PictureIds()
    sent(ids, payload(0x1234), first=True)
    assert sent(ids, payload(5, 7), first=True)[0] == 0x1235 & 0x7F
    assert sent(ids, payload(6, 7))[0] == 0x1236 & 0x7F


def test_frame_numbers_go_on_over_a_change_of_the_source():
    """A decoder throws away what seems older than what it has."""
    frames = FrameNumbers()
    frames.switch(180)
    assert [frames.map(n) for n in (180, 181, 182)] == [180, 181, 182]
    frames.switch(1)
    assert [frames.map(n) for n in (1, 1, 2, 4)] == [183, 183, 184, 186]


def test_frame_numbers_wrap_and_a_late_frame_does_not_turn_them_back():
    frames = FrameNumbers()
    assert [frames.map(n) for n in (0xFFFE, 0, 0xFFFF)] == [0xFFFE, 0, 0xFFFF]
    frames.switch(7)
    assert frames.map(7) == 1
