"""Rows of memory for those who get the same packets: each one's own is written, then each is encrypted.

Two ways do the same: `_rows.c` where it was compiled, for any number in one call; else Python, row by row for
a few, which touches less of memory, and by columns for many.
"""

import struct
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfu.media.datagrams import Burst
from sfu.media.kernel import native
from sfu.media.number_bank import SENT_KEPT, NumberBank, sent_entry
from sfu.media.profile import Body
from sfu.media.srtp import Ciphers, Rows, SrtpContext, protect_address

# Up to so many rows are written one by one (bench/fan_out.py --cold).
FEW_LEGS = 24

# Marker and payload type, sequence number, timestamp: bytes 1 to 7 of a packet; then the SSRC.
_HEAD: Final = struct.Struct("!BHI")
_SSRC_AT: Final = 8
_SSRC: Final = struct.Struct("!I")


@cache
def _ssrc_and_number(apart: int) -> struct.Struct:
    return struct.Struct(f"!4s{apart}sH")


def send_time(now: float) -> int:
    """Return seconds as abs-send-time wants them: 6.18 bits of fixed point."""
    return int(now * 262_144) & 0xFFFFFF


class Member(NamedTuple):
    """Who gets a packet: its cipher, its SSRC, and the place of its transport-wide number."""

    context: SrtpContext
    ssrc: int
    place: int


class Audience:
    """Some members, and the rows for them: packets are spread over the rows, then they are encrypted."""

    def spread(self, at: int, body: Body, second: int, sequence: int, timestamp: int, now: float) -> None:
        """Write a packet into each member's row of the burst's packet `at`.

        `second`: its marker and payload type, as the second byte. Its transport-wide number is remembered as
        that of so many bytes sent at `now`, s.
        """
        raise NotImplementedError

    def protect(self, packets: int) -> int:
        """Encrypt the rows of the first so many packets of the burst.

        Returns how many libsrtp refused: those have no length afterwards.
        """
        raise NotImplementedError


def gather(members: Sequence[Member], burst: Burst, bank: NumberBank) -> Audience:
    """Return the audience of these members, in this order.

    Raises:
        ValueError: there are more members than rows.

    """
    if len(members) > burst.count:
        raise ValueError("more receivers than rows")
    return PlainAudience(members, burst, bank) if native is None else NativeAudience(members, burst, bank)


class PlainAudience(Audience):
    """Python takes every step."""

    def __init__(self, members: Sequence[Member], burst: Burst, bank: NumberBank) -> None:
        self._members, self._burst, self._bank = members, burst, bank
        # What writes the first packet of a burst, the second, …: most bursts are short.
        self._writers = [_Writer(members, burst.rows(0), bank)]

    def spread(self, at: int, body: Body, second: int, sequence: int, timestamp: int, now: float) -> None:
        """Write a packet; see `Audience`."""
        while len(self._writers) <= at:
            rows = self._burst.rows(len(self._writers))
            self._writers.append(_Writer(self._members, rows, self._bank))
        self._writers[at].spread(body, second, sequence, timestamp, now)

    def protect(self, packets: int) -> int:
        """Encrypt; see `Audience`."""
        return sum([writer.ciphers.protect_all() for writer in self._writers[:packets]])


class _Writer:
    """Writes one packet of a burst into the rows of its members."""

    def __init__(self, members: Sequence[Member], rows: Rows, bank: NumberBank) -> None:
        self._rows, self._bank = rows, bank
        count = len(members)
        self.ciphers = Ciphers([member.context for member in members], rows)
        self._lengths = rows.lengths[:count]
        self._is_few = count <= FEW_LEGS
        if self._is_few:
            # Of each row: where it begins, the place of its number, that of what was sent, its SSRC.
            self._few = [
                (index * rows.stride, m.place, m.place * SENT_KEPT, _SSRC.pack(m.ssrc))
                for index, m in enumerate(members)
            ]
            return
        self._matrix = rows.matrix[:count]
        self._places = np.array([member.place for member in members])
        self._sent_rows = self._places * SENT_KEPT
        self._numbers: NDArray[np.uint16] = np.zeros(count, np.uint16)
        self._ssrc_column = rows.column(count, _SSRC_AT, ">u4")
        self._ssrcs = np.array([member.ssrc for member in members]).astype(">u4")
        # The number of each row, by the place where it stands.
        self._number_columns: dict[int, NDArray[Any]] = {}

    def spread(self, body: Body, second: int, sequence: int, timestamp: int, now: float) -> None:
        """Write a packet into every row."""
        common, send_time_at = bytearray(body.data), body.abs_send_time_at
        if send_time_at:
            common[send_time_at : send_time_at + 3] = send_time(now).to_bytes(3, "big")
        _HEAD.pack_into(common, 1, second, sequence, timestamp)
        self._lengths.fill(len(common))
        if self._is_few:
            self._write_few(common, body.transport_cc_at, now)
        else:
            self._write_many(common, body.transport_cc_at, now)

    def _write_few(self, common: bytearray, number_at: int, now: float) -> None:
        """Write a packet into the rows, one after the other: few steps for each, and none twice."""
        buffer, length = self._rows.buffer, len(common)
        if not number_at:
            for at, _, _, ssrc in self._few:
                buffer[at : at + length] = common
                buffer[at + _SSRC_AT : at + _SSRC_AT + 4] = ssrc
            return
        numbers, sent = self._bank.cells, self._bank.sent_cells
        entry: Any = sent_entry(length, now)  # Any: one object for all rows
        # From the SSRC to the number in one go, with what stands between them.
        between = bytes(common[_SSRC_AT + 4 : number_at])
        pack_into = _ssrc_and_number(len(between)).pack_into
        for at, place, kept_at, ssrc in self._few:
            buffer[at : at + length] = common
            numbers[place] = number = (numbers[place] + 1) & 0xFFFF
            sent[kept_at + number % SENT_KEPT] = entry
            pack_into(buffer, at + _SSRC_AT, ssrc, between, number)

    def _write_many(self, common: bytearray, number_at: int, now: float) -> None:
        """Write a packet into all rows at once, and what differs from row to row by columns."""
        length = len(common)
        self._matrix[:, :length] = np.frombuffer(common, np.uint8)
        self._ssrc_column[:] = self._ssrcs
        if number_at:
            numbers = self._numbers
            self._bank.next_block(self._places, self._sent_rows, numbers, length, now)
            column = self._number_columns.get(number_at)
            if column is None:
                column = self._number_columns[number_at] = self._rows.column(len(numbers), number_at, ">u2")
            column[:] = numbers


class NativeAudience(Audience):
    """Every step for all members is one call."""

    def __init__(self, members: Sequence[Member], burst: Burst, bank: NumberBank) -> None:
        # It is full of addresses: what they are of lives as long as this.
        self._kept, self._burst = (members, bank), burst
        audience = native.ffi.new("struct audience *", {"receivers": len(members)})
        audience.rows, audience.numbers = burst.iovecs.ctypes.data, bank.addresses.ctypes.data
        audience.step = burst.iovecs.shape[1]
        audience.protect, audience.kept, audience.count = protect_address(), SENT_KEPT, len(members)
        for receiver, member in zip(audience.receivers, members, strict=False):
            receiver.session, receiver.place = member.context.address, member.place
            receiver.ssrc = int.from_bytes(_SSRC.pack(member.ssrc), sys.byteorder)
        self._audience: Any = audience
        self._spread: Any = native.lib.spread
        self._protect: Any = native.lib.protect

    def spread(self, at: int, body: Body, second: int, sequence: int, timestamp: int, now: float) -> None:
        """Write a packet; see `Audience`."""
        length = len(body.data)
        self._burst.rows(at)  # they are there
        self._spread(
            self._audience,
            at,
            body.data,
            length,
            second,
            sequence,
            timestamp,
            body.abs_send_time_at,
            send_time(now),
            body.transport_cc_at,
            sent_entry(length, now),
        )

    def protect(self, packets: int) -> int:
        """Encrypt; see `Audience`."""
        refused: int = self._protect(self._audience, packets)
        return refused
