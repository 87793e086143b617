"""An audience: what each of its rows says, by every way to write them; and that it is encrypted as by others.

What a batch makes of it is in test_batch.py.
"""

import ctypes
import struct

import numpy as np
import pytest
from pylibsrtp import Policy, Session

from sfu.media.audience import Audience, Member, gather
from sfu.media.datagrams import Burst
from sfu.media.number_bank import SENT_KEPT, NumberBank, sent_entry
from sfu.media.profile import Body
from sfu.media.srtp import SrtpContext
from tests.unit.media.receivers import WAYS, policy, write_rows
from tests.unit.media.scene import rtp_bytes

COUNT, STRIDE, TAG_BYTES = 4, 400, 16


@pytest.fixture(autouse=True, params=WAYS)
def written(request, monkeypatch):
    """All ways to write the rows do the same."""
    write_rows(monkeypatch, request.param)


@pytest.fixture
def burst():
    made = Burst(COUNT, STRIDE)
    for packet in range(3):
        made.rows(packet).matrix[:] = 0xEE
    return made


@pytest.fixture
def rows(burst):
    """Of the first packet of a burst."""
    return burst.rows(0)


@pytest.fixture
def bank():
    return NumberBank()


def session(number: int, direction: int) -> Session:
    return Session(policy(bytes((number,)) * 28, direction))


def members(bank: NumberBank, count: int) -> list[Member]:
    """Return members with ciphers of their own, SSRCs from 0xFEDCBA90, numbers from 65534 on."""
    found = []
    for number in range(count):
        place = bank.take()
        bank.values[place] = 0xFFFD + number & 0xFFFF
        context = SrtpContext(session(number, Policy.SSRC_ANY_OUTBOUND))
        found.append(Member(context, 0xFEDCBA90 + number, place))
    return found


def write(audience: Audience, packet: bytes, number_at: int = 0, now: float = 0.0, at: int = 0) -> None:
    body = Body(packet, 12, number_at, 0, 0)
    audience.spread(at, body, packet[1], *struct.unpack_from("!HI", packet, 2), now)


@pytest.mark.parametrize("count", [4, 2, 1])
def test_each_row_has_its_own_ssrc_and_number(burst, rows, bank, count):
    """Numbers wrap, and are remembered with size and time; nothing is written behind packet or last row."""
    them = members(bank, count)
    packet = rtp_bytes(7, bytes(range(100)))
    write(gather(them, burst, bank), packet, number_at=20, now=12.5)
    for index, member in enumerate(them):
        number = 0xFFFE + index & 0xFFFF
        own = bytearray(packet)
        own[8:12], own[20:22] = member.ssrc.to_bytes(4, "big"), number.to_bytes(2, "big")
        assert rows.take(index) == own
        assert bank.cells[member.place] == number
        assert bank.sent_cells[member.place * SENT_KEPT + number % SENT_KEPT] == sent_entry(len(packet), 12.5)
    assert np.count_nonzero(bank.sent) == count
    assert (rows.matrix[:count, len(packet) :] == 0xEE).all()
    assert (rows.matrix[count:] == 0xEE).all()


def test_what_all_rows_say_is_what_is_asked(burst, rows, bank):
    """Marker and payload type, sequence number, media time, and when it was sent: 6.18 bits of seconds."""
    packet = rtp_bytes(7, bytes(40), timestamp=9)
    body = Body(packet, 12, 0, abs_send_time_at=20, frame_number_at=0)
    gather(members(bank, 3), burst, bank).spread(0, body, 0xE0, 0xFEDC, 0xFEDCBA98, 65.5)
    assert {bytes(rows.take(index)[:8]) for index in range(3)} == {bytes.fromhex("80e0fedcfedcba98")}
    assert {bytes(rows.take(index)[12:]) for index in range(3)} == {bytes(8) + b"\x06\0\0" + bytes(29)}


def test_a_packet_without_a_number_counts_nothing(burst, rows, bank):
    them = members(bank, 3)
    before = bank.values.copy()
    packet = rtp_bytes(7, b"payload")
    write(gather(them, burst, bank), packet)
    assert [rows.take(index)[8:12] for index in range(3)] == [m.ssrc.to_bytes(4, "big") for m in them]
    assert all(rows.take(index)[12:] == packet[12:] for index in range(3))
    assert (bank.values == before).all()
    assert not bank.sent.any()


def test_the_bank_may_grow_meanwhile(burst, rows, bank):
    """Its numbers are elsewhere then, and are found."""
    them = members(bank, 2)
    audience = gather(them, burst, bank)
    for _ in range(300):
        bank.take()
    write(audience, rtp_bytes(7, b"payload"), number_at=12, now=1.0)
    assert [bank.cells[member.place] for member in them] == [0xFFFE, 0xFFFF]
    assert [rows.take(index)[12:14] for index in range(2)] == [b"\xff\xfe", b"\xff\xff"]
    assert np.count_nonzero(bank.sent) == 2


@pytest.mark.parametrize("count", [4, 2, 1])
def test_rows_are_protected_as_pylibsrtp_does_it(burst, rows, bank, count):
    """Each by its own session; no row behind the last is touched."""
    audience = gather(members(bank, count), burst, bank)
    for sequence in range(3):
        write(audience, rtp_bytes(sequence, b"payload"))
        plain = [rows.take(index) for index in range(count)]
        assert audience.protect(1) == 0
        for index in range(count):
            assert len(rows.take(index)) == len(plain[index]) + TAG_BYTES
            assert session(index, Policy.SSRC_ANY_INBOUND).unprotect(rows.take(index)) == plain[index]
        assert (rows.matrix[count:] == 0xEE).all()


def test_a_refused_row_has_no_length(burst, rows, bank):
    """How many there are is told; the rows around them are protected, and the next packet is whole again."""
    them = members(bank, 4)
    audience = gather(them, burst, bank)
    packet = rtp_bytes(7, b"payload")
    write(audience, packet)
    for index in (1, 3):
        rows.set_length(index, 1)
    assert audience.protect(1) == 2
    assert rows.lengths.tolist() == [len(packet) + TAG_BYTES, 0, len(packet) + TAG_BYTES, 0]
    for index in (0, 2):
        stock = session(index, Policy.SSRC_ANY_INBOUND)
        assert stock.unprotect(rows.take(index))[12:] == b"payload"
    write(audience, rtp_bytes(8, b"more"))
    assert audience.protect(1) == 0
    assert rows.take(3)


def test_more_members_than_rows_are_a_mistake(burst, rows, bank):
    with pytest.raises(ValueError, match="more receivers than rows"):
        gather(members(bank, COUNT + 1), burst, bank)


def test_the_packets_of_a_burst_stand_side_by_side(burst, rows, bank):
    """Each member's are neighbours for the kernel, in their order, with numbers that follow each other."""
    them = members(bank, 3)
    audience = gather(them, burst, bank)
    sizes = (60, 60, 40)
    for at, size in enumerate(sizes):
        write(audience, rtp_bytes(7 + at, bytes(size)), number_at=20, now=1.0, at=at)
    plain = [[burst.rows(at).take(index) for at in range(3)] for index in range(3)]
    assert audience.protect(3) == 0
    for index, member in enumerate(them):
        stock = session(index, Policy.SSRC_ANY_INBOUND)
        for at, size in enumerate(sizes):
            address, length = burst.iovecs[index, at].tolist()
            assert length == 12 + size + TAG_BYTES
            opened = stock.unprotect(ctypes.string_at(address, length))
            assert opened == plain[index][at]
            assert opened[8:12] == member.ssrc.to_bytes(4, "big")
            assert opened[20:22] == (0xFFFE + index + at & 0xFFFF).to_bytes(2, "big")
    assert not burst.iovecs[3:, :, 1].any()


def test_only_so_many_packets_are_protected(burst, rows, bank):
    """A packet that was left from a longer burst is not touched; each one that is refused counts."""
    audience = gather(members(bank, 2), burst, bank)
    for at in range(3):
        write(audience, rtp_bytes(7 + at, b"payload"), at=at)
    rest = burst.rows(2).take(1)
    for at in (0, 1, 2):
        burst.rows(at).set_length(0, 1)
    assert audience.protect(2) == 2
    assert burst.iovecs[:2, :2, 1].tolist() == [[0, 0], [12 + 7 + TAG_BYTES] * 2]
    assert burst.rows(2).take(1) == rest
