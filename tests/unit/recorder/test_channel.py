"""Datagrams of records: what is packed comes out again, and what is none of ours is a ValueError."""

import pytest
from hypothesis import given, strategies as st

from sfu.recorder.channel import Media, pack_media, pack_message, unpack

MEDIA = st.builds(
    Media, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary()
)
MESSAGES = st.dictionaries(
    st.text(max_size=5),
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3),
    max_size=4,
)


def packed(record: Media | dict) -> bytes:
    if isinstance(record, Media):
        return pack_media(record.recording, record.source, record.at_us, record.packet)
    return pack_message(record)


def test_a_packet_comes_out_as_it_was():
    """With its recording, its source and its time."""
    assert list(unpack(pack_media(3, 2**32 - 1, 2**40, b"packet"))) == [Media(3, 2**32 - 1, 2**40, b"packet")]


def test_a_message_comes_out_as_it_was():
    message = {
        "type": "open",
        "rec": 1,
        "about": {"room": "Ж\n\u2028", "formats": {"96": ["vp8", 90_000, 1]}},
    }
    assert list(unpack(pack_message(message))) == [message]


def test_a_packet_may_be_empty():
    assert list(unpack(pack_media(0, 0, 0, b""))) == [Media(0, 0, 0, b"")]


def test_a_datagram_may_be_empty():
    """Nothing is in it."""
    assert list(unpack(b"")) == []


@given(st.lists(MEDIA | MESSAGES, max_size=8))
def test_records_of_a_datagram_come_out_in_order(records):
    """Packets and messages, one behind the other."""
    assert list(unpack(b"".join(map(packed, records)))) == records


@given(st.lists(MEDIA | MESSAGES, max_size=3), MEDIA | MESSAGES, st.data())
def test_what_is_cut_is_told_behind_what_is_whole(records, last, data):
    """Wherever it is cut."""
    whole = packed(last)
    cut = b"".join(map(packed, records)) + whole[: data.draw(st.integers(1, len(whole) - 1))]
    found = []
    with pytest.raises(ValueError):
        for record in unpack(cut):
            found.append(record)
    assert found == records


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"\0", id="less than a head"),
        pytest.param(b"\0\0\0\0\1", id="a record of nothing"),
        pytest.param(b"\0\0\0\1\2", id="a kind that nobody knows"),
        pytest.param(b"\0\0\0\3\xff{}", id="another"),
        pytest.param(b"\xff\xff\xff\xff\1{}", id="longer than there can be"),
        pytest.param(b"\0\0\0\1\1", id="no JSON"),
        pytest.param(b"\0\0\0\3\1{]", id="broken JSON"),
        pytest.param(b"\0\0\0\3\1\xff\xfe", id="no UTF-8"),
    ],
)
def test_what_is_none_of_ours_is_told(garbage):
    """Behind a record that is."""
    records = unpack(pack_message({"type": "first"}) + garbage)
    assert next(records) == {"type": "first"}
    with pytest.raises(ValueError):
        next(records)


@given(st.integers(0, 2**32 - 1), st.integers(2, 255), st.binary(max_size=40))
def test_a_kind_that_nobody_knows_is_never_taken(length, kind, rest):
    with pytest.raises(ValueError):
        list(unpack(length.to_bytes(4, "big") + bytes((kind,)) + rest))
