"""RTCP packets: read and written as bytes (RFC 3550, 4585, 5104, transport-cc draft).

aiortc's classes are not used here: they read transport-cc as NACK, drop a compound
that holds a report with a profile extension, and cannot say whom a FIR is for.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

SR: Final = 200
RR: Final = 201
SDES: Final = 202
BYE: Final = 203
RTPFB: Final = 205
PSFB: Final = 206
NACK: Final = 1
_TRANSPORT_CC: Final = 15
_PLI: Final = 1
_FIR: Final = 4
_APPLICATION: Final = 15
_REMB: Final = b"REMB"

# RFC 3550 gives five bits to the number of reports in one packet.
MAX_REPORTS: Final = 31

# Bytes of a compound that fits into a datagram on every way, with what SRTCP adds.
MAX_COMPOUND: Final = 1100

# Nobody changes what was read, but it is not frozen: compiled, that would take four times as long to make.


@dataclass(slots=True)
class Report:
    """One report block: how a receiver hears one SSRC.

    `fraction_lost` in 1/256, `jitter` in media time, `last_sr` the middle 32 bits of the
    NTP time of the last sender report, `delay_since_sr` in 1/65536 s.
    """

    ssrc: int
    fraction_lost: int
    lost: int
    highest_sequence: int
    jitter: int
    last_sr: int
    delay_since_sr: int


@dataclass(slots=True)
class SenderReport:
    """Where media time and NTP time meet for one SSRC; `ntp` is 32.32 fixed point."""

    ssrc: int
    ntp: int
    timestamp: int
    packets: int
    octets: int
    reports: tuple[Report, ...] = ()


@dataclass(slots=True)
class ReceiverReport:
    """Report blocks of somebody who sends nothing."""

    ssrc: int
    reports: tuple[Report, ...] = ()


@dataclass(slots=True)
class Nack:
    """Sequence numbers of one SSRC that did not arrive."""

    sender_ssrc: int
    media_ssrc: int
    lost: tuple[int, ...]


@dataclass(slots=True)
class KeyframeRequest:
    """A PLI, or a FIR for this SSRC."""

    sender_ssrc: int
    media_ssrc: int


@dataclass(slots=True)
class Remb:
    """What a receiver believes its link can take, for these SSRCs together."""

    sender_ssrc: int
    bitrate_bps: int
    ssrcs: tuple[int, ...]


@dataclass(slots=True)
class TransportFeedback:
    """Transport-wide congestion feedback, not taken apart."""

    sender_ssrc: int
    data: bytes


@dataclass(slots=True)
class Bye:
    """SSRCs that have stopped."""

    ssrcs: tuple[int, ...]


Rtcp = SenderReport | ReceiverReport | Nack | KeyframeRequest | Remb | TransportFeedback | Bye


def parse(data: bytes) -> list[Rtcp]:
    """Return what a compound says; unknown packets are passed over.

    Raises:
        ValueError: a length or a version is wrong; nothing of the compound is used.

    """
    found: list[Rtcp] = []
    at, size = 0, len(data)
    while at < size:
        if at + 4 > size:
            raise ValueError("cut in the RTCP header")
        first, kind, words = struct.unpack_from("!BBH", data, at)
        end = at + 4 + 4 * words
        if first >> 6 != 2 or end > size:
            raise ValueError("not a whole RTCP packet")
        body = data[at + 4 : end]
        if first & 0x20:
            if not body or not 0 < body[-1] <= len(body):
                raise ValueError("wrong RTCP padding")
            body = body[: -body[-1]]
        try:
            _parse_one(found, kind, first & 31, body)
        except (struct.error, IndexError) as error:
            raise ValueError("RTCP packet too short for what it says") from error
        at = end
    return found


def _parse_one(found: list[Rtcp], kind: int, count: int, body: bytes) -> None:
    """Add what one packet says."""
    if kind == RTPFB:
        _parse_transport_feedback(found, count, body)
    elif kind == RR:
        found.append(ReceiverReport(struct.unpack_from("!I", body)[0], _reports(body, 4, count)))
    elif kind == SR:
        ssrc, ntp, timestamp, packets, octets = struct.unpack_from("!IQIII", body)
        found.append(SenderReport(ssrc, ntp, timestamp, packets, octets, _reports(body, 24, count)))
    elif kind == PSFB:
        _parse_payload_feedback(found, count, body)
    elif kind == BYE:
        found.append(Bye(struct.unpack_from(f"!{count}I", body)))


def _reports(body: bytes, at: int, count: int) -> tuple[Report, ...]:
    reports = []
    for index in range(count):
        ssrc, lost, highest, jitter, last_sr, delay = struct.unpack_from("!IIIIII", body, at + 24 * index)
        signed = (lost & 0xFFFFFF) - ((lost & 0x800000) << 1)
        reports.append(Report(ssrc, lost >> 24, signed, highest, jitter, last_sr, delay))
    return tuple(reports)


def _parse_transport_feedback(found: list[Rtcp], fmt: int, body: bytes) -> None:
    sender, media = struct.unpack_from("!II", body)
    if fmt == NACK:
        lost: list[int] = []
        for at in range(8, len(body) - 3, 4):
            first, mask = struct.unpack_from("!HH", body, at)
            lost.append(first)
            lost.extend((first + bit + 1) & 0xFFFF for bit in range(16) if mask >> bit & 1)
        found.append(Nack(sender, media, tuple(lost)))
    elif fmt == _TRANSPORT_CC:
        found.append(TransportFeedback(sender, body[8:]))


def _parse_payload_feedback(found: list[Rtcp], fmt: int, body: bytes) -> None:
    sender, media = struct.unpack_from("!II", body)
    if fmt == _PLI:
        found.append(KeyframeRequest(sender, media))
    elif fmt == _FIR:  # the SSRC stands in the entry, RFC 5104 section 4.3.1
        for at in range(8, len(body) - 7, 8):
            found.append(KeyframeRequest(sender, struct.unpack_from("!I", body, at)[0]))
    elif fmt == _APPLICATION and body[8:12] == _REMB:
        count, high, low = struct.unpack_from("!BBH", body, 12)
        mantissa = (high & 3) << 16 | low
        found.append(Remb(sender, mantissa << (high >> 2), struct.unpack_from(f"!{count}I", body, 16)))


def _packet(count: int, kind: int, body: bytes) -> bytes:
    return struct.pack("!BBH", 0x80 | count, kind, len(body) // 4) + body


def _report_blocks(reports: Iterable[Report]) -> bytes:
    return b"".join(
        struct.pack(
            "!IIIIII",
            r.ssrc,
            r.fraction_lost << 24 | r.lost & 0xFFFFFF,
            r.highest_sequence & 0xFFFFFFFF,
            r.jitter & 0xFFFFFFFF,
            r.last_sr,
            r.delay_since_sr & 0xFFFFFFFF,
        )
        for r in reports
    )


def sender_report(report: SenderReport) -> bytes:
    """Return a sender report."""
    body = struct.pack(
        "!IQIII",
        report.ssrc,
        report.ntp,
        report.timestamp,
        report.packets & 0xFFFFFFFF,
        report.octets & 0xFFFFFFFF,
    )
    return _packet(len(report.reports), SR, body + _report_blocks(report.reports))


def receiver_report(ssrc: int, reports: tuple[Report, ...] = ()) -> bytes:
    """Return a receiver report of at most 31 blocks."""
    return _packet(len(reports), RR, struct.pack("!I", ssrc) + _report_blocks(reports))


def source_description(ssrc: int, cname: str) -> bytes:
    """Return an SDES with one CNAME, which every compound carries (RFC 3550 section 6.1)."""
    text = cname.encode()[:255]
    chunk = struct.pack("!IBB", ssrc, 1, len(text)) + text + b"\0"
    return _packet(1, SDES, chunk.ljust((len(chunk) + 3) // 4 * 4, b"\0"))


def nack(sender_ssrc: int, media_ssrc: int, lost: Iterable[int]) -> bytes:
    """Return a generic NACK for sequence numbers in sending order (RFC 4585 section 6.2.1)."""
    entries: list[list[int]] = []
    for sequence in lost:
        ahead = (sequence - entries[-1][0] - 1) & 0xFFFF if entries else 16
        if ahead < 16:
            entries[-1][1] |= 1 << ahead
        else:
            entries.append([sequence, 0])
    body = struct.pack("!II", sender_ssrc, media_ssrc)
    return _packet(NACK, RTPFB, body + b"".join(struct.pack("!HH", *e) for e in entries))


def picture_loss(sender_ssrc: int, media_ssrc: int) -> bytes:
    """Return a PLI (RFC 4585 section 6.3.1)."""
    return _packet(_PLI, PSFB, struct.pack("!II", sender_ssrc, media_ssrc))


def full_intra_request(sender_ssrc: int, media_ssrc: int, number: int) -> bytes:
    """Return a FIR with its command number (RFC 5104 section 4.3.1)."""
    return _packet(_FIR, PSFB, struct.pack("!IIIB3x", sender_ssrc, 0, media_ssrc, number & 0xFF))


def transport_feedback(sender_ssrc: int, media_ssrc: int, body: bytes) -> bytes:
    """Return a transport-cc packet around an already packed body, padded to words."""
    padded = body.ljust((len(body) + 3) // 4 * 4, b"\0")
    return _packet(_TRANSPORT_CC, RTPFB, struct.pack("!II", sender_ssrc, media_ssrc) + padded)
