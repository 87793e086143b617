"""One packet to many receivers of the same layer, as rows of one array.

What is common is written into each row, with the SSRC and the transport-wide number of its receiver
(`sfu/media/audience.py`); where legs differ in sequence number, media time, frame and
picture numbers, those are written by columns. libsrtp then encrypts each row in place, and the rows go
out in one `sendmmsg`. Packets that were read together, as those of one frame mostly are, wait for each other
and go out together: what libsrtp and the kernel look up for a receiver they look up once.

Only packets in their order come here. Late ones, and whatever a leg must decide for itself
(where to begin, what to repeat), go through the leg; so legs need their state only now and
then, and take it from the batch by `catch_up`.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from sfu.counters import MediaCounters
from sfu.media.audience import Member, gather
from sfu.media.datagrams import AUDIENCE_ROWS, Held, RowOutlet
from sfu.media.number_bank import NumberBank
from sfu.media.packet import RtpPacket, sequence_delta
from sfu.media.picture_ids import Descriptor, describe
from sfu.media.profile import Body, Profile
from sfu.media.srtp import Rows, SrtpContext

# Below this a batch costs more than it saves (bench/fan_out.py).
MIN_LEGS = 2

# A larger audience is several batches.
MAX_LEGS = AUDIENCE_ROWS


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


class Batch(Held):
    """Legs of one layer that share a profile; it lives until one of them changes."""

    def __init__(self, legs: Sequence[BatchLeg], lanes: Sequence[Lane], profile: Profile, key: int) -> None:
        self._profile, self._key = profile, key
        self._count = len(legs)
        first = lanes[0]
        self._out, self._counters = first.out, first.counters
        self._names = b"".join([lane.sockaddr for lane in lanes])
        self._burst = first.out.burst
        offsets = [leg.offsets() for leg in legs]
        members = [
            Member(lane.context, own.ssrc, lane.place) for lane, own in zip(lanes, offsets, strict=True)
        ]
        self._audience = gather(members, self._burst, first.bank)
        columns = np.array(offsets, np.int64)
        # What the others' offsets are measured from; it is the first leg's.
        self._sequence, self._timestamp = int(columns[0, 1]), int(columns[0, 2])
        self._sequences = (columns[:, 1] - self._sequence).astype(np.uint16)
        self._timestamps = (columns[:, 2] - self._timestamp).astype(np.uint32)
        # Legs that took up a layer when it was fresh have its own numbers, all of them.
        self._is_mixed = bool(self._sequences.any() or self._timestamps.any())
        self._pictures = columns[:, 3].astype(np.uint16)
        self._tl0s = columns[:, 4].astype(np.uint8)
        self._frames = columns[:, 5].astype(np.uint16)
        self._move_pictures = bool(self._pictures.any() or self._tl0s.any())
        self._move_frames = bool(self._frames.any())
        # Bytes of the packets that were written and are to be sent.
        self._held_bytes = 0
        # The frame of which packets were dropped because the socket was full, by its timestamp.
        self._spoilt: int | None = None
        # What it sent to each leg so far.
        self.packets = self.octets = 0
        self._last: tuple[RtpPacket, float] | None = None
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
        if packet.timestamp == self._spoilt:
            # The rest of a frame that lacks a packet is of no use; what lacks can be asked for.
            self._counters.drop("socket_full_frame", count)
            return
        self._spoilt = None
        length = len(body.data)
        sequence = (packet.sequence + self._sequence) & 0xFFFF
        timestamp = (packet.timestamp + self._timestamp) & 0xFFFFFFFF
        at = self._out.hold(self, length)
        self._audience.spread(at, body, packet.marker << 7 | payload_type, sequence, timestamp, now)
        if self._is_mixed or self._move_frames or self._move_pictures:
            self._move(self._burst.rows(at), packet, body, sequence, timestamp)
        self._held_bytes += length
        self.packets += 1
        self.octets += length - body.payload_at
        self._last, self._newest = (packet, now), packet.sequence
        if packet.payload_type in profile.pictured and packet.end > packet.payload:
            self._pictured = packet
        if body.frame_number_at:
            self._numbered = body

    def release(self, packets: int) -> None:
        """Encrypt the packets that were written, and send them."""
        count, length, self._held_bytes = self._count, self._held_bytes, 0
        refused = self._audience.protect(packets)
        sent = self._out.send_rows(self._names, count, packets, refused)
        if not sent and self._profile.is_video and self._last is not None:
            self._spoilt = self._last[0].timestamp
        if refused:  # cannot be for a fresh number; an empty row goes nowhere
            self._counters.drop("srtp_refused", refused)
        forwarded = count * packets - refused
        self._counters.packets_forwarded += forwarded
        self._counters.bytes_forwarded += length * forwarded // packets

    def _move(self, rows: Rows, packet: RtpPacket, body: Body, sequence: int, timestamp: int) -> None:
        """Write what legs have of their own beside SSRC and transport-wide number."""
        if self._is_mixed:
            count = self._count
            rows.column(count, 2, ">u2")[:] = self._sequences + np.uint16(sequence)
            rows.column(count, 4, ">u4")[:] = self._timestamps + np.uint32(timestamp)
        if self._move_frames and body.frame_number_at:
            number = int.from_bytes(body.data[body.frame_number_at : body.frame_number_at + 2], "big")
            rows.column(self._count, body.frame_number_at, ">u2")[:] = self._frames + np.uint16(number)
        if self._move_pictures and packet.payload_type in self._profile.pictured:
            self._write_pictures(rows, self._descriptor(packet), body.payload_at)

    def _descriptor(self, packet: RtpPacket) -> Descriptor:
        return describe(packet.peek(6), self._profile.pictured[packet.payload_type])

    def _write_pictures(self, rows: Rows, descriptor: Descriptor, payload_at: int) -> None:
        if descriptor.picture_at:
            at = payload_at + descriptor.picture_at
            pictures = (self._pictures + np.uint16(descriptor.picture_id)) & np.uint16(0x7FFF)
            if descriptor.picture_bits == 15:
                rows.column(self._count, at, ">u2")[:] = pictures | np.uint16(0x8000)
            else:
                rows.matrix[: self._count, at] = pictures & np.uint16(0x7F)
        if descriptor.tl0_at:
            rows.matrix[: self._count, payload_at + descriptor.tl0_at] = self._tl0s + np.uint8(
                descriptor.tl0_index
            )

    def progress(self) -> Progress | None:
        """Return how far it has come; None if nothing was sent yet."""
        if self._last is None:
            return None
        last, at = self._last
        descriptor = frame = None
        packet, body = self._pictured, self._numbered
        if packet is not None:
            descriptor = self._descriptor(packet)
        if body is not None:
            frame = int.from_bytes(body.data[body.frame_number_at : body.frame_number_at + 2], "big")
        return Progress(last.sequence, last.timestamp, at, descriptor, frame)
