"""RTP packets: what is read is what was written, and rubbish is a ValueError."""

import struct

import pytest
from hypothesis import example, given, strategies as st

from sfu.media.packet import (
    ONE_BYTE_PROFILE,
    TWO_BYTE_PROFILE,
    RtpPacket,
    build,
    extension_block,
    sequence_delta,
    timestamp_delta,
)

U16 = st.integers(0, 0xFFFF)
U32 = st.integers(0, 0xFFFFFFFF)
ELEMENTS = st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=20)), max_size=6)


def packet_with(block: bytes, payload: bytes = b"") -> RtpPacket:
    return RtpPacket(b"\x90\x60" + bytes(10) + block + payload)


@given(
    payload_type=st.integers(0, 127),
    sequence=U16,
    timestamp=U32,
    ssrc=U32,
    payload=st.binary(max_size=50),
    marker=st.integers(0, 1),
    elements=ELEMENTS,
)
def test_what_is_built_is_read_again(payload_type, sequence, timestamp, ssrc, payload, marker, elements):
    """Every number, every header extension element and the payload come back."""
    packet = RtpPacket(
        build(payload_type, sequence, timestamp, ssrc, payload, marker=marker, elements=elements)
    )
    assert (packet.payload_type, packet.sequence, packet.timestamp, packet.ssrc, packet.marker) == (
        payload_type,
        sequence,
        timestamp,
        ssrc,
        marker,
    )
    assert packet.extensions() == elements
    assert packet.data[packet.payload : packet.end] == payload


@given(st.binary(max_size=80))
@example(b"\xff" * 12)
@example(b"\x90\x60" + bytes(10) + b"\xbe\xde\x00\x01")
def test_any_bytes_are_a_packet_or_a_value_error(data):
    """Nothing but ValueError comes of arbitrary bytes, and what is read stays inside."""
    try:
        packet = RtpPacket(data)
    except ValueError:
        return
    packet.extensions()
    assert 12 <= packet.payload <= packet.end <= len(data)


@given(profile=st.sampled_from((0xBEDE, 0x1000, 0x100F, 0x1234)), body=st.binary(max_size=40))
def test_any_extension_bytes_are_read_to_where_they_break(profile, body):
    """A header extension of rubbish gives elements that lie inside it, and no error."""
    body = body.ljust((len(body) + 3) // 4 * 4, b"\0")
    packet = packet_with(struct.pack("!HH", profile, len(body) // 4) + body)
    assert sum(len(value) + 1 for _, value in packet.extensions()) <= len(body)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80" * 11, "shorter"),
        (b"\x40" + bytes(11), "version"),
        (b"\x90" + bytes(11), "header extension"),
        (b"\x8f" + bytes(11), "longer inside"),
        (b"\x90" + bytes(11) + b"\xbe\xde\x00\x09", "longer inside"),
        (b"\xa0" + bytes(11) + b"\x00", "padding"),
        (b"\xa0" + bytes(11) + b"\x05", "longer inside"),
    ],
)
def test_broken_headers_are_refused(data, message):
    """Each way in which the header may lie is told apart."""
    with pytest.raises(ValueError, match=message):
        RtpPacket(data)


def test_contributing_sources_are_stepped_over():
    """The payload begins behind the CSRC list."""
    packet = RtpPacket(b"\x82\x60" + bytes(10) + bytes(8) + b"payload")
    assert packet.data[packet.payload : packet.end] == b"payload"


def test_padding_lies_behind_the_end():
    """Padding is not part of the payload."""
    packet = RtpPacket(b"\xa0\x60" + bytes(10) + b"payload" + b"\0\0\x03")
    assert packet.data[packet.payload : packet.end] == b"payload"


def test_one_byte_padding_counts_one_byte_whatever_its_length_says():
    """Identifier 0 is one byte of padding (RFC 8285 section 4.2)."""
    block = struct.pack("!HH", ONE_BYTE_PROFILE, 1) + b"\x05\x10\xaa\x00"
    assert packet_with(block).extensions() == [(1, b"\xaa")]


def test_elements_are_read_once():
    """Asked again, a packet gives what it found the first time."""
    packet = packet_with(extension_block([(1, b"a")]))
    assert packet.extensions() is packet.extensions()


def test_identifier_fifteen_ends_a_one_byte_extension():
    """Elements behind identifier 15 are not read (RFC 8285 section 4.2)."""
    block = struct.pack("!HH", ONE_BYTE_PROFILE, 2) + b"\x10\xaa\xf0\x00\x20\xbb\x00\x00"
    assert packet_with(block).extensions() == [(1, b"\xaa")]


@pytest.mark.parametrize(
    "block",
    [
        struct.pack("!HH", ONE_BYTE_PROFILE, 1) + b"\x10\xaa\x2f\xbb",
        struct.pack("!HH", TWO_BYTE_PROFILE, 1) + b"\x01\x01\xaa\x02",
        struct.pack("!HH", TWO_BYTE_PROFILE, 2) + b"\x01\x01\xaa\x02\x09\x00\x00\x00",
    ],
)
def test_an_element_that_is_cut_ends_the_list(block):
    """What stands before a broken element is read, the rest is left out."""
    assert packet_with(block).extensions() == [(1, b"\xaa")]


def test_unknown_profiles_have_no_elements():
    """An extension of RFC 3550's own kind is stepped over."""
    packet = packet_with(struct.pack("!HH", 0x4711, 1) + b"abcd", b"payload")
    assert packet.extensions() == []
    assert packet.data[packet.payload :] == b"payload"


def test_application_bits_of_two_byte_profiles_are_ignored():
    """0x1000 to 0x100F are one profile (RFC 8285 section 4.3)."""
    packet = packet_with(struct.pack("!HH", 0x100B, 1) + b"\x01\x02ab")
    assert packet.extensions() == [(1, b"ab")]


@pytest.mark.parametrize(
    ("elements", "profile"),
    [
        ([(14, bytes(16))], ONE_BYTE_PROFILE),
        ([(15, b"a")], TWO_BYTE_PROFILE),
        ([(1, b"")], TWO_BYTE_PROFILE),
        ([(1, b"a"), (2, bytes(17))], TWO_BYTE_PROFILE),
    ],
)
def test_one_byte_elements_where_all_fit(elements, profile):
    """The short form is used where it can say everything."""
    assert struct.unpack_from("!H", extension_block(elements))[0] == profile


def test_no_elements_are_no_extension():
    """An empty list makes an empty block and leaves the X bit clear."""
    assert extension_block([]) == b""
    assert build(96, 1, 2, 3, b"")[0] == 0x80


@given(a=U16, step=st.integers(-0x8000, 0x7FFF))
def test_sequence_delta_undoes_a_step(a, step):
    """Distances hold over the wrap."""
    assert sequence_delta((a + step) & 0xFFFF, a) == step


@given(a=U32, step=st.integers(-0x80000000, 0x7FFFFFFF))
def test_timestamp_delta_undoes_a_step(a, step):
    """Distances hold over the wrap."""
    assert timestamp_delta((a + step) & 0xFFFFFFFF, a) == step
