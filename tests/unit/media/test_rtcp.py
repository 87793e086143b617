"""RTCP: what is written is read again, also by aiortc; rubbish is a ValueError."""

import struct
from contextlib import suppress

import aiortc.rtp
import pytest
from hypothesis import given, strategies as st

from sfu.media import rtcp
from tests.unit.media.scene import bye

U8 = st.integers(0, 0xFF)
U16 = st.integers(0, 0xFFFF)
U32 = st.integers(0, 0xFFFFFFFF)
REPORT = st.builds(rtcp.Report, U32, U8, st.integers(-0x800000, 0x7FFFFF), U32, U32, U32, U32)
REPORTS = st.lists(REPORT, max_size=rtcp.MAX_REPORTS).map(tuple)
SENDER_REPORT = st.builds(rtcp.SenderReport, U32, st.integers(0, (1 << 64) - 1), U32, U32, U32, REPORTS)


@given(SENDER_REPORT)
def test_sender_reports_come_back(report):
    """Every field of a sender report survives, negative loss included."""
    assert rtcp.parse(rtcp.sender_report(report)) == [report]


@given(U32, REPORTS)
def test_receiver_reports_come_back(ssrc, reports):
    """Every field of every block survives."""
    assert rtcp.parse(rtcp.receiver_report(ssrc, reports)) == [rtcp.ReceiverReport(ssrc, reports)]


@given(
    U32,
    U32,
    st.integers(0, 0xFFFF),
    st.lists(st.integers(1, 40), max_size=60),
)
def test_every_lost_number_is_in_the_nack(sender, media, first, steps):
    """A NACK names exactly the numbers it was given, in order, over the wrap too."""
    lost = [first]
    for step in steps:
        lost.append((lost[-1] + step) & 0xFFFF)
    assert rtcp.parse(rtcp.nack(sender, media, lost)) == [rtcp.Nack(sender, media, tuple(lost))]


def test_seventeen_neighbours_make_one_nack_entry():
    """One entry says a number and any of the sixteen behind it."""
    assert len(rtcp.nack(1, 2, range(17))) == 12 + 4
    assert len(rtcp.nack(1, 2, range(18))) == 12 + 8


def test_keyframe_requests_name_the_stream():
    """A PLI by its header, a FIR by its entries."""
    assert rtcp.parse(rtcp.picture_loss(1, 2)) == [rtcp.KeyframeRequest(1, 2)]
    assert rtcp.parse(rtcp.full_intra_request(1, 2, 256 + 3)) == [rtcp.KeyframeRequest(1, 2)]
    two = struct.pack("!BBHIIIB3xIB3x", 0x84, rtcp.PSFB, 6, 1, 0, 7, 0, 8, 0)
    assert rtcp.parse(two) == [rtcp.KeyframeRequest(1, 7), rtcp.KeyframeRequest(1, 8)]


@given(U32, st.lists(U32, max_size=31).map(tuple))
def test_byes_come_back(_, ssrcs):
    """A BYE names every SSRC."""
    assert rtcp.parse(bye(ssrcs)) == [rtcp.Bye(ssrcs)]


@given(U32, U32, st.binary(max_size=60))
def test_transport_feedback_is_carried_whole(sender, media, body):
    """The body comes back, padded to words."""
    (found,) = rtcp.parse(rtcp.transport_feedback(sender, media, body))
    assert isinstance(found, rtcp.TransportFeedback)
    assert found.sender_ssrc == sender
    assert found.data.rstrip(b"\0") == body.rstrip(b"\0")
    assert 0 <= len(found.data) - len(body) < 4


@given(st.integers(0, 63), st.integers(0, 0x3FFFF), st.lists(U32, max_size=20))
def test_remb_is_a_mantissa_and_an_exponent(exponent, mantissa, ssrcs):
    """All eighteen bits of the mantissa count."""
    body = struct.pack("!II4sI", 5, 0, b"REMB", len(ssrcs) << 24 | exponent << 18 | mantissa)
    body += struct.pack(f"!{len(ssrcs)}I", *ssrcs)
    packet = struct.pack("!BBH", 0x8F, rtcp.PSFB, len(body) // 4) + body
    assert rtcp.parse(packet) == [rtcp.Remb(5, mantissa << exponent, tuple(ssrcs))]


def test_aiortc_reads_what_is_written():
    """An independent reader finds the same in a compound of everything."""
    report = rtcp.Report(7, 12, -3, 70_000, 9, 11, 13)
    compound = b"".join(
        (
            rtcp.sender_report(rtcp.SenderReport(1, 2 << 32, 3, 4, 5, (report,))),
            rtcp.source_description(1, "someone"),
            rtcp.nack(1, 2, [5, 6, 30]),
            rtcp.picture_loss(1, 2),
            bye((1,)),
        )
    )
    sender, source, nack, pli, farewell = aiortc.rtp.RtcpPacket.parse(compound)
    assert (sender.ssrc, sender.sender_info.ntp_timestamp, sender.sender_info.rtp_timestamp) == (
        1,
        2 << 32,
        3,
    )
    (block,) = sender.reports
    assert (block.ssrc, block.fraction_lost, block.packets_lost, block.highest_sequence) == (
        7,
        12,
        -3,
        70_000,
    )
    assert (block.jitter, block.lsr, block.dlsr) == (9, 11, 13)
    assert source.chunks[0].items == [(1, b"someone")]
    assert nack.lost == [5, 6, 30]
    assert (pli.ssrc, pli.media_ssrc) == (1, 2)
    assert farewell.sources == [1]


@pytest.mark.parametrize("cname", ["", "a", "ab", "abc", "abcd", "x" * 300, "ä" * 200])
def test_source_descriptions_end_in_a_zero_at_a_word(cname):
    """Whatever its length, the chunk is whole words with a zero at the end, and is passed over."""
    data = rtcp.source_description(1, cname)
    assert len(data) % 4 == 0
    assert data[-1] == 0
    assert data[10 : 10 + data[9]] == cname.encode()[:255]
    assert rtcp.parse(data) == []


@pytest.mark.parametrize(
    "packet",
    [
        struct.pack("!BBHI", 0x81, 204, 1, 1),  # APP
        struct.pack("!BBHII", 0x9F, rtcp.RTPFB, 2, 1, 2),  # unknown transport feedback
        struct.pack("!BBHII", 0x9E, rtcp.PSFB, 2, 1, 2),  # unknown payload feedback
        struct.pack("!BBHII4s", 0x8F, rtcp.PSFB, 3, 1, 2, b"ELSE"),  # another application's
    ],
)
def test_unknown_packets_are_passed_over(packet):
    """What is behind them is still read."""
    assert rtcp.parse(packet + rtcp.picture_loss(3, 4)) == [rtcp.KeyframeRequest(3, 4)]


def test_padding_is_taken_off():
    """The last byte says how much is padding."""
    assert rtcp.parse(struct.pack("!BBHIII", 0xA1, rtcp.PSFB, 3, 1, 2, 4)) == [rtcp.KeyframeRequest(1, 2)]


def test_a_profile_extension_of_a_report_is_ignored():
    """Words behind the report blocks do not spoil a report."""
    assert rtcp.parse(struct.pack("!BBHII", 0x80, rtcp.RR, 2, 1, 99)) == [rtcp.ReceiverReport(1)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\xc9\x00", "cut"),
        (b"\x40\xc9\x00\x00", "not a whole"),
        (b"\x80\xc9\x00\x05", "not a whole"),
        (b"\xa0\xc9\x00\x00", "padding"),
        (b"\xa0\xc9\x00\x01\x00\x00\x00\x00", "padding"),
        (b"\xa0\xc9\x00\x01\x00\x00\x00\x05", "padding"),
        (b"\x81\xc9\x00\x01\x00\x00\x00\x00", "too short"),
        (b"\x81\xce\x00\x01\x00\x00\x00\x00", "too short"),
    ],
)
def test_broken_compounds_are_refused(data, message):
    """One wrong packet spoils the compound."""
    with pytest.raises(ValueError, match=message):
        rtcp.parse(rtcp.picture_loss(1, 2) + data)


@given(st.binary(max_size=100))
def test_any_bytes_are_packets_or_a_value_error(data):
    """Nothing but ValueError comes of arbitrary bytes."""
    with suppress(ValueError):
        rtcp.parse(data)


@given(
    first=st.integers(0, 63),
    kind=st.sampled_from((rtcp.SR, rtcp.RR, rtcp.SDES, rtcp.BYE, rtcp.RTPFB, rtcp.PSFB)),
    body=st.binary(max_size=80).map(lambda b: b[: len(b) // 4 * 4]),
)
def test_any_body_is_a_packet_or_a_value_error(first, kind, body):
    """The same behind a header that is right."""
    with suppress(ValueError):
        rtcp.parse(struct.pack("!BBH", 0x80 | first, kind, len(body) // 4) + body)
