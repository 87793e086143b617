"""One packet to many receivers of the same layer, as rows of one array.

What is common is written by broadcast, what is each leg's own by columns: sequence number,
media time, SSRC, transport-wide number, frame and picture numbers. libsrtp then encrypts
each row in place, and the rows go out with the next `sendmmsg`.

Only packets in their order come here. Late ones, and whatever a leg must decide for itself
(where to begin, what to repeat), go through the leg; so legs need their state only now and
then, and take it from the batch by `catch_up`.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sfu.media.number_bank import SENT_KEPT, NumberBank
from sfu.media.packet import RtpPacket, sequence_delta
from sfu.media.picture_ids import Descriptor, describe
from sfu.media.profile import Body, Profile
from sfu.media.srtp import Rows, SrtpContext, protect_block
from sfu.metrics import MediaCounters

# Below this the arrays cost more than they save (bench/fan_out.py).
MIN_LEGS = 4

# One batch fills half of the outgoing rows at most; a larger audience is several batches.
MAX_LEGS = 256

_HEADER = np.dtype([("sequence", ">u2"), ("timestamp", ">u4"), ("ssrc", ">u4")])


class RowOutlet(Protocol):
    """Where rows go out: the UDP port."""

    outgoing: Rows

    def reserve_block(self, count: int) -> int:
        """Return the index of the first of so many free rows."""

    def commit_block(self, count: int, sockaddrs: NDArray[np.uint8], empty: int = 0) -> None:
        """Queue the rows that were reserved last, of which some may be empty."""


class Lane(NamedTuple):
    """The way of one leg's packets: cipher, address, and its peer's transport-wide numbers."""

    out: RowOutlet
    context: SrtpContext
    sockaddr: bytes
    bank: NumberBank
    place: int
    counters: MediaCounters


class Offsets(NamedTuple):
    """What a leg adds to the numbers of its source."""

    ssrc: int
    sequence: int
    timestamp: int
    picture: int
    tl0: int
    frame: int


class BatchLeg(Protocol):
    """A leg, as a batch sees it."""

    def offsets(self) -> Offsets:
        """Return what this leg adds to the source's numbers."""

    def newest(self) -> int:
        """Return the source's number of the last packet in order that went to this leg."""


class Progress(NamedTuple):
    """How far a batch has come: the source's numbers of its last packet, and what it sent."""

    sequence: int
    timestamp: int
    at: float
    descriptor: Descriptor | None
    frame: int | None


class Batch:
    """Legs of one layer that share a profile; it lives until one of them changes."""

    def __init__(self, legs: Sequence[BatchLeg], lanes: Sequence[Lane], profile: Profile, key: int) -> None:
        self._profile, self._key = profile, key
        self._count = len(legs)
        first = lanes[0]
        self._out, self._counters, self._bank = first.out, first.counters, first.bank
        self._contexts = [lane.context for lane in lanes]
        self._sockaddrs = np.frombuffer(b"".join(lane.sockaddr for lane in lanes), np.uint8).reshape(
            self._count, -1
        )
        self._places = np.array([lane.place for lane in lanes])
        self._sent_rows = self._places * SENT_KEPT
        columns = np.array([leg.offsets() for leg in legs], np.int64)
        header = np.zeros(self._count, _HEADER)
        header["ssrc"] = columns[:, 0]
        # Bytes 2 to 11 of each packet, and the two columns of them that change.
        self._header = header.view(np.uint8).reshape(self._count, -1)
        self._sequence_column, self._timestamp_column = header["sequence"], header["timestamp"]
        self._sequences = columns[:, 1].astype(np.uint16)
        self._timestamps = columns[:, 2].astype(np.uint32)
        self._pictures = columns[:, 3].astype(np.uint16)
        self._tl0s = columns[:, 4].astype(np.uint8)
        self._frames = columns[:, 5].astype(np.uint16)
        self._move_pictures = bool(self._pictures.any() or self._tl0s.any())
        self._numbers = np.zeros(self._count, np.uint16)
        self._two = np.zeros(self._count, ">u2")
        self._two_bytes = self._two.view(np.uint8).reshape(self._count, 2)
        # What it sent to each leg so far.
        self.packets = self.octets = 0
        self._last: tuple[RtpPacket, Body, float] | None = None
        # The last ones that told a picture id, and a frame number; padding tells neither.
        self._pictured: RtpPacket | None = None
        self._numbered: Body | None = None
        # The source's last number in order; at first that of the leg that is farthest.
        start = legs[0].newest()
        self._newest = (start + max(sequence_delta(leg.newest(), start) for leg in legs)) & 0xFFFF

    def takes(self, packet: RtpPacket) -> bool:
        """Tell whether a packet comes in its order; a late one is for the legs themselves."""
        return sequence_delta(packet.sequence, self._newest) > 0

    def forward(self, packet: RtpPacket, now: float) -> None:
        """Send a packet to every leg."""
        profile, count = self._profile, self._count
        payload_type = profile.payload_types.get(packet.payload_type)
        if payload_type is None:
            self._counters.drop("codec_not_agreed", count)
            return
        body: Body | None = packet.bodies.get(self._key)
        if body is None:
            body = packet.bodies[self._key] = profile.body(packet)
        length = len(body.data)
        common = bytearray(body.data)
        common[1] = packet.marker << 7 | payload_type
        if body.abs_send_time_at:
            when = int(now * 262_144) & 0xFFFFFF
            common[body.abs_send_time_at : body.abs_send_time_at + 3] = when.to_bytes(3, "big")
        first = self._out.reserve_block(count)
        rows = self._out.outgoing
        block = rows.matrix[first : first + count]
        block[:, :length] = np.frombuffer(common, np.uint8)
        self._write_numbers(block, packet, body, now)
        rows.lengths[first : first + count] = length
        failed = protect_block(self._contexts, rows, first)
        self._out.commit_block(count, self._sockaddrs, failed)
        if failed:  # cannot be for a fresh number; an empty row goes nowhere
            self._counters.drop("srtp_refused", failed)
        self.packets += 1
        self.octets += length - body.payload_at
        self._counters.packets_forwarded += count - failed
        self._counters.bytes_forwarded += length * (count - failed)
        self._last, self._newest = (packet, body, now), packet.sequence
        if packet.end > packet.payload and packet.payload_type in profile.vp8:
            self._pictured = packet
        if body.frame_number_at:
            self._numbered = body

    def _write_numbers(self, block: NDArray[np.uint8], packet: RtpPacket, body: Body, now: float) -> None:
        np.add(self._sequences, packet.sequence, out=self._sequence_column, casting="unsafe")
        np.add(self._timestamps, packet.timestamp, out=self._timestamp_column, casting="unsafe")
        block[:, 2:12] = self._header
        if body.transport_cc_at:
            numbers = self._numbers
            self._bank.next_block(self._places, self._sent_rows, numbers, len(body.data), now)
            self._put_two(block, body.transport_cc_at, numbers)
        if body.frame_number_at:
            number = int.from_bytes(body.data[body.frame_number_at : body.frame_number_at + 2], "big")
            self._put_two(block, body.frame_number_at, self._frames + np.uint16(number))
        if self._move_pictures and packet.payload_type in self._profile.vp8:
            self._write_pictures(block, packet, body.payload_at)

    def _write_pictures(self, block: NDArray[np.uint8], packet: RtpPacket, payload_at: int) -> None:
        descriptor = describe(packet.data[packet.payload : packet.payload + 6])
        if descriptor.picture_at:
            at = payload_at + descriptor.picture_at
            pictures = (self._pictures + np.uint16(descriptor.picture_id)) & np.uint16(0x7FFF)
            if descriptor.picture_bits == 15:
                self._put_two(block, at, pictures | np.uint16(0x8000))
            else:
                block[:, at] = pictures & np.uint16(0x7F)
        if descriptor.tl0_at:
            block[:, payload_at + descriptor.tl0_at] = self._tl0s + np.uint8(descriptor.tl0_index)

    def _put_two(self, block: NDArray[np.uint8], at: int, values: NDArray[np.uint16]) -> None:
        self._two[:] = values
        block[:, at : at + 2] = self._two_bytes

    def progress(self) -> Progress | None:
        """Return how far it has come; None if nothing was sent yet."""
        if self._last is None:
            return None
        last, _, at = self._last
        descriptor = frame = None
        packet, body = self._pictured, self._numbered
        if packet is not None:
            descriptor = describe(packet.data[packet.payload : packet.payload + 6])
        if body is not None:
            frame = int.from_bytes(body.data[body.frame_number_at : body.frame_number_at + 2], "big")
        return Progress(last.sequence, last.timestamp, at, descriptor, frame)
