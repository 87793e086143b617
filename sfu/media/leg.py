"""One receiver of one track: the slot's SSRC, and everything it says.

A packet arrives as somebody else's and leaves as this slot's: SSRC, payload type,
sequence number, media time, header extensions and VP8 picture ids are its own.
"""

import struct
from collections.abc import Callable, Iterable

from sfu.media import rtcp
from sfu.media.allocation import ALL, Extent
from sfu.media.batch import Batch, Lane, Offsets
from sfu.media.codecs import KEYFRAME_PEEK_BYTES, starts_keyframe
from sfu.media.negotiation import Section, Sending
from sfu.media.outlet import Outlet
from sfu.media.pacing import Pacer
from sfu.media.packet import RtpPacket
from sfu.media.picture_ids import FrameNumbers, PictureIds, describe
from sfu.media.profile import Body, Profile
from sfu.media.rewriter import Rewriter
from sfu.media.track import Layer, Track

# Packets kept for receivers without rtx, whose repeats must be the same to the last bit:
# AES-GCM may not see one index with two contents.
MAX_PLAIN_HISTORY = 512

# Packets that one receiver may have sent again in a second; more is an attack or a link
# on which repeating makes it worse.
MAX_REPEATS_PER_S = 500

# A receiver that asks for the same packet again within this time asked too early.
MIN_REPEAT_INTERVAL_S = 0.02

# Packets of the past that a probe may repeat.
MAX_PADDING_PACKETS = 64

_NUMBERS = struct.Struct("!BHII")  # marker and payload type, sequence, timestamp, SSRC
_U16 = struct.Struct("!H")

# Sender reports kept to find the round trip of the blocks that answer them.
_REPORTS_KEPT = 8


class Leg:
    """The sending side of one slot."""

    def __init__(
        self,
        section: Section,
        sending: Sending,
        outlet: Outlet,
        first_sequence: int | None,
        changed: Callable[[], None] | None = None,
        pacer: "Pacer[Waiting] | None" = None,
    ) -> None:
        self.mid, self.kind = section.mid, section.kind
        self.section, self.sending, self._outlet = section, sending, outlet
        # What stands in the slot, the layer of it that is sent, and the one that should be.
        self.track: Track | None = None
        self.layer: Layer | None = None
        self.target: Layer | None = None
        # When its first packet went out.
        self.taken_up_at = float("-inf")
        self._profile: Profile | None = None
        self._profile_key = 0
        # Where video waits that the link cannot take yet; sound never does.
        self._pacer = pacer if self.kind == "video" else None
        # Called when layers are to be chosen anew; None: this leg takes the best there is.
        self._changed = changed
        # The rid that was allotted to it, and whether it was told to send nothing at all.
        self.allotted: str | None = None
        self.is_paused = False
        # Whether its link keeps it from the layer that it could show.
        self.is_limited = False
        # How far of it.
        self.extent = ALL
        # Frames in a second that the receiver has use for; None: all.
        self.max_fps: int | None = None
        clock_rate = section.codecs[0].clock_rate
        self.clock_rate = clock_rate
        self._rewriter = Rewriter(first_sequence, 0, clock_rate)
        self._pictures = PictureIds()
        self._frames = FrameNumbers()
        self._rtx_sequence = first_sequence or 1
        self._plain: dict[int, bytes] = {}
        self._repeated: dict[int, float] = {}
        self._repeat_budget, self._budget_at = float(MAX_REPEATS_PER_S), 0.0
        # What it sent by itself; the rest was sent by the batch it is in, if it is in one.
        self._packets = self._octets = 0
        self._batch: Batch | None = None
        self._counted = (0, 0)
        # How much later than it could the receiver is asked to play; None: it is not asked.
        self.playout_delay_s: float | None = None
        # What it sends in a second, lately.
        self.bitrate_bps = 0.0
        self._measured: tuple[float, int] | None = None
        self._padded_at = 0
        # What the receiver last told of this stream; loss 0-1, jitter in media time.
        self.loss = self.jitter = 0.0
        self.round_trip_s: float | None = None
        self._reports_sent: dict[int, float] = {}

    # What stands in the slot

    def attach(self, track: Track, now: float) -> None:
        """Take a track into the slot."""
        self.detach()
        self.track = track
        self._map_formats(track)
        track.fan_out.add(self)
        if self._changed is None or self.kind == "audio":
            self._choose(now)
        else:  # whoever attaches lets it be chosen among all
            self._changed()

    def detach(self) -> None:
        """Empty the slot; its SSRC stays, for whoever comes next."""
        if self.track is not None:
            self.track.fan_out.remove(self)
        self.track = self.layer = self.target = self._profile = self.allotted = None
        self.extent = ALL
        self.is_paused = self.is_limited = False
        self._plain.clear()
        self._repeated.clear()

    def negotiate(self, section: Section) -> None:
        """Take over what was agreed again for this m-line."""
        self.section = section
        if self.track is not None:
            self._map_formats(self.track)
            self.track.fan_out.changed(self)

    def _map_formats(self, track: Track) -> None:
        self._profile = Profile(track.codecs, track.extensions, self.section, self.playout_delay_s)
        self._profile_key = self._profile.key()

    def delay_playout(self, delay_s: float | None) -> None:
        """Ask the receiver to play each frame so much later than it could; None: ask nothing more."""
        self.playout_delay_s = delay_s
        self.negotiate(self.section)

    def aim(self, layer: Layer | None, now: float) -> None:
        """Set the layer to be sent; it is taken up with its next keyframe."""
        if layer is not self.target and self.track is not None:
            self.track.fan_out.changed(self)
        self.target = layer
        if layer is None or not self._outlet.ready():
            return
        shown = self.layer
        if shown is None or layer.base is not shown.base or shown.lacks(layer.spatial):
            layer.track.want_keyframe(layer, now)

    def allot(self, rid: str | None, now: float, *, is_limited: bool = False, extent: Extent = ALL) -> None:
        """Take the layer to be shown, None for none, and how much of it: the link takes nothing more."""
        self.is_paused, self.is_limited = rid is None, is_limited
        self.allotted, self.extent = rid, extent
        if rid is None:
            self._stop()
        else:
            self._choose(now)

    def stop(self) -> None:
        """Send nothing until another layer is allotted: the link is full of this one.

        The keyframe of the other would have to wait behind it.
        """
        self.is_paused = self.is_limited = True
        self._stop()

    def _stop(self) -> None:
        """Send nothing until a keyframe of whatever is aimed at."""
        if self.layer is None and self.target is None:
            return
        self.enter(None)
        self.layer = self.target = None
        if self.track is not None:
            self.track.fan_out.changed(self)

    def _choose(self, now: float) -> None:
        if self.track is None or self.is_paused:
            return
        shown = self.layer.base if self.layer is not None else None
        if self.allotted is None:
            layer = self.track.best_layer(now, shown)
        else:
            layer = self.track.layer_for(self.allotted, shown, now)
        # Who had fewer frames has them until more can begin.
        is_part = self.layer is not shown and layer is shown
        if layer is not None and (is_part or self.max_fps is not None or self.extent != ALL):
            layer = layer.part_for(self.layer, self.extent, self.max_fps, now)
        self.aim(layer, now)

    def layers_changed(self, now: float) -> None:
        """Choose again among the layers of the track."""
        self._choose(now)
        if self._changed is not None and self.track is not None:
            self._changed()

    def format_changed(self, now: float) -> None:
        """Map payload types and extensions of the track anew: its publisher negotiated."""
        self.negotiate(self.section)
        self.layers_changed(now)

    # In a batch

    def lane(self) -> tuple[Lane, Profile, int] | None:
        """Return the way into a batch; None where each packet must be kept or wait, or goes over TCP."""
        profile = self._profile
        if profile is None or not self._outlet.ready() or (self._pacer is not None and self._pacer.is_on):
            return None
        if self.kind == "video" and not profile.is_repairable:
            return None
        lane = self._outlet.lane()
        return (lane, profile, self._profile_key) if lane is not None else None

    def offsets(self) -> Offsets:
        """Return what this leg adds to the numbers of its source."""
        return Offsets(
            ssrc=self.sending.ssrc,
            sequence=self._rewriter.sequence_offset,
            timestamp=self._rewriter.timestamp_offset,
            picture=self._pictures.picture_offset,
            tl0=self._pictures.tl0_offset,
            frame=self._frames.offset,
        )

    def newest(self) -> int:
        """Return the source's number of the last packet in order that went to this leg."""
        return self._rewriter.newest_source_sequence()

    def enter(self, batch: Batch | None) -> None:
        """Let a batch send for this leg, or send by itself again."""
        self._catch_up()
        self._batch, self._counted = batch, (0, 0)

    def _catch_up(self) -> None:
        """Take over from the batch how far this leg's numbers have come."""
        batch = self._batch
        progress = batch.progress() if batch is not None else None
        if batch is None or progress is None:
            return
        self._packets += batch.packets - self._counted[0]
        self._octets += batch.octets - self._counted[1]
        self._counted = (batch.packets, batch.octets)
        self._rewriter.map(progress.sequence, progress.timestamp, progress.at)
        if progress.descriptor is not None:
            self._pictures.catch_up(progress.descriptor)
        if progress.frame is not None:
            self._frames.map(progress.frame)

    @property
    def packets(self) -> int:
        """Packets sent so far."""
        return self._packets + (self._batch.packets - self._counted[0] if self._batch is not None else 0)

    @property
    def octets(self) -> int:
        """Bytes of payload sent so far."""
        return self._octets + (self._batch.octets - self._counted[1] if self._batch is not None else 0)

    # Forwarding

    def begin(self, layer: Layer, packet: RtpPacket, now: float) -> None:
        """Take up the layer that is aimed at, if this packet is where it can begin."""
        if layer is self.target and layer is not self.layer and self._takes(packet):
            self._catch_up()
            self._take_up(layer, packet, now)

    def forward(self, layer: Layer, packet: RtpPacket, now: float) -> None:
        """Send a packet on, if it is of the layer that this slot shows."""
        if layer is not self.layer or not self._takes(packet):
            return
        self._catch_up()
        pacer, size = self._pacer, len(packet.data)
        if pacer is not None and pacer.is_on and not pacer.takes(size, now):
            pacer.wait((self, layer, packet), size, now)
            return
        self._send(packet, now)

    def _takes(self, packet: RtpPacket) -> bool:
        """Tell whether a packet could go out, of whatever layer it is."""
        if self._profile is None or not self._outlet.ready():
            return False
        is_agreed = packet.payload_type in self._profile.payload_types
        if not is_agreed:
            self._outlet.counters.drop("codec_not_agreed")
        return is_agreed

    def send_waiting(self, layer: Layer, packet: RtpPacket, now: float) -> None:
        """Send what had to wait, if it is of what this slot still shows."""
        if layer is not self.layer or self._profile is None or not self._outlet.ready():
            self._outlet.counters.drop("waited_in_vain")
            return
        self._catch_up()
        self._send(packet, now)

    def _send(self, packet: RtpPacket, now: float) -> None:
        profile = self._profile
        payload_type = profile.payload_types.get(packet.payload_type) if profile is not None else None
        numbers = self._rewriter.map(packet.sequence, packet.timestamp, now)
        if numbers is None or payload_type is None or profile is None:
            return
        body: Body | None = packet.bodies.get(self._profile_key)
        if body is None:
            body = packet.bodies[self._profile_key] = profile.body(packet)
        buffer, at = self._outlet.reserve()
        length = len(body.data)
        buffer[at : at + length] = body.data
        marked = packet.marker << 7 | payload_type
        _NUMBERS.pack_into(buffer, at + 1, marked, numbers[0], numbers[1], self.sending.ssrc)
        self._finish(buffer, at, body, packet, now)
        if self.kind == "video" and payload_type not in profile.rtx:
            self._remember(numbers[0], bytes(buffer[at : at + length]))
        if self._outlet.send_rtp(length):
            self._packets += 1
            self._octets += length - body.payload_at
            self._outlet.counters.packets_forwarded += 1
            self._outlet.counters.bytes_forwarded += length

    def _finish(self, buffer: bytearray, at: int, body: Body, packet: RtpPacket, now: float) -> None:
        if body.transport_cc_at:
            number = self._outlet.next_transport_number(len(body.data), now)
            _U16.pack_into(buffer, at + body.transport_cc_at, number)
        if body.abs_send_time_at:
            when = int(now * 262_144) & 0xFFFFFF  # 6.18 fixed point seconds
            where = at + body.abs_send_time_at
            buffer[where : where + 3] = when.to_bytes(3, "big")
        if body.frame_number_at:
            where = at + body.frame_number_at
            _U16.pack_into(buffer, where, self._frames.map(_U16.unpack_from(buffer, where)[0]))
        name = self._profile.pictured.get(packet.payload_type) if self._profile is not None else None
        if name is not None:
            self._pictures.patch(buffer, at + body.payload_at, describe(packet.peek(6), name))

    def _take_up(self, layer: Layer, packet: RtpPacket, now: float) -> None:
        profile = self._profile
        if profile is None:
            return
        name = profile.names[packet.payload_type]
        # Another part of what is shown: less needs no keyframe, nor do more frames.
        is_same = self.layer is not None and layer.is_told_apart and self.layer.base is layer.base
        if self.layer is not None and is_same:
            if not layer.follows(self.layer):
                if self.layer.lacks(layer.spatial):
                    layer.track.want_keyframe(layer, now)
                return
        elif self.kind == "video" and not starts_keyframe(name, packet.peek(KEYFRAME_PEEK_BYTES)):
            layer.track.want_keyframe(layer, now)
            return
        if self._pacer is not None:  # what waits of the layer before goes before it
            for leg, waiting_layer, waiting in self._pacer.take_all():
                leg.send_waiting(waiting_layer, waiting, now)
        # What the batch of the layer before has sent is counted with the offsets of that layer.
        self.enter(None)
        self.layer, self.taken_up_at = layer, now
        layer.track.fan_out.changed(self)
        self._rewriter.switch(packet.sequence, packet.timestamp, now, is_same=is_same)
        self._plain.clear()
        self._repeated.clear()
        if name == "vp8" or (name == "vp9" and not is_same):  # of parts VP9 keeps its ids
            self._pictures.switch(describe(packet.peek(6), name), is_same=is_same)
        number = profile.frame_number(packet)
        if number is not None and not is_same:
            self._frames.switch(number)

    # Repairs

    def _remember(self, sequence: int, data: bytes) -> None:
        self._plain[sequence] = data
        if len(self._plain) > MAX_PLAIN_HISTORY:
            del self._plain[next(iter(self._plain))]

    def repeat(self, sequences: Iterable[int], now: float, *, is_second: bool = False) -> list[int]:
        """Send again what a receiver's NACK asks for, as far as its budget goes; return what was sent.

        `is_second`: once more, whether or not the first repeat may still be on its way.
        """
        self._catch_up()
        elapsed, self._budget_at = now - self._budget_at, now
        self._repeat_budget = min(MAX_REPEATS_PER_S, self._repeat_budget + elapsed * MAX_REPEATS_PER_S)
        least = 0.0 if is_second else max(MIN_REPEAT_INTERVAL_S, (self.round_trip_s or 0) * 0.8)
        repeated: list[int] = []
        for sequence in sequences:
            if self._repeat_budget < 1:
                self._outlet.counters.drop("repeat_budget")
                break
            if now - self._repeated.get(sequence, float("-inf")) < least:
                continue
            if length := self._repeat_one(sequence, now):
                if self._pacer is not None:
                    self._pacer.spend(length, now)
                self._repeat_budget -= 1
                self._repeated[sequence] = now
                repeated.append(sequence)
                self._outlet.counters.packets_retransmitted += 1
                if len(self._repeated) > MAX_PLAIN_HISTORY:
                    del self._repeated[next(iter(self._repeated))]
        return repeated

    @property
    def has_rtx(self) -> bool:
        """Whether repeats go by a stream of their own, so that a second one is no duplicate."""
        return self._profile is not None and self._profile.is_repairable

    def pad(self, size: int, now: float) -> int:
        """Send about so many bytes of what was sent already, on the rtx stream; return how many."""
        self._catch_up()
        layer, profile, sent = self.layer, self._profile, 0
        if layer is None or profile is None or not profile.is_repairable:
            return 0
        newest = self._rewriter.newest_sequence()
        for _ in range(MAX_PADDING_PACKETS):
            if sent >= size:
                break
            self._padded_at = (self._padded_at + 1) % MAX_PADDING_PACKETS
            length = self._repeat_one((newest - self._padded_at) & 0xFFFF, now)
            sent += length
            self._outlet.counters.packets_padded += length > 0
        return sent

    def _repeat_one(self, sequence: int, now: float) -> int:
        """Send one packet again; return its bytes, 0 if it could not be sent."""
        layer, profile = self.layer, self._profile
        if layer is None or profile is None or not self._outlet.ready():
            return 0
        plain = self._plain.get(sequence)
        if plain is not None:
            buffer, at = self._outlet.reserve()
            buffer[at : at + len(plain)] = plain
            return len(plain) if self._outlet.send_rtp(len(plain)) else 0
        source_sequence = self._rewriter.source_sequence(sequence)
        packet = layer.history.get(source_sequence, now) if source_sequence is not None else None
        payload_type = profile.payload_types.get(packet.payload_type) if packet is not None else None
        rtx = profile.rtx.get(payload_type) if payload_type is not None else None
        if packet is None or rtx is None:
            return 0
        body = profile.body(packet)
        timestamp = (packet.timestamp + self._rewriter.timestamp_offset) & 0xFFFFFFFF
        buffer, at = self._outlet.reserve()
        head, length = body.payload_at, len(body.data)
        # RFC 4588 section 4: the original sequence number stands before the payload.
        buffer[at : at + head] = body.data[:head]
        buffer[at + head + 2 : at + length + 2] = body.data[head:]
        _U16.pack_into(buffer, at + head, sequence)
        self._rtx_sequence = (self._rtx_sequence + 1) & 0xFFFF
        marked = packet.marker << 7 | rtx
        _NUMBERS.pack_into(buffer, at + 1, marked, self._rtx_sequence, timestamp, self.sending.rtx_ssrc)
        moved = body._replace(payload_at=head + 2)
        self._finish(buffer, at, moved, packet, now)
        return length + 2 if self._outlet.send_rtp(length + 2) else 0

    # Reports

    def keyframe_wanted(self, now: float) -> None:
        """Pass a receiver's PLI or FIR on."""
        layer = self.target or self.layer
        if layer is not None:
            layer.track.want_keyframe(layer, now)

    def sender_report(self, now: float) -> bytes:
        """Return a report that keeps lips and voice together; empty before there is one.

        The publisher's NTP time goes through, so that its audio and its video stay on one
        clock; media time is this leg's.
        """
        self._catch_up()
        layer = self.layer
        clock = layer.base.clock if layer is not None else None
        if clock is None or not self.packets:
            return b""
        elapsed = now - clock.heard_at
        ntp = (clock.ntp + int(elapsed * 4_294_967_296)) & 0xFFFFFFFFFFFFFFFF
        source_time = clock.timestamp + round(elapsed * self.clock_rate)
        timestamp = (source_time + self._rewriter.timestamp_offset) & 0xFFFFFFFF
        self._reports_sent[ntp >> 16 & 0xFFFFFFFF] = now
        if len(self._reports_sent) > _REPORTS_KEPT:
            del self._reports_sent[next(iter(self._reports_sent))]
        report = rtcp.SenderReport(self.sending.ssrc, ntp, timestamp, self.packets, self.octets)
        return rtcp.sender_report(report) + rtcp.source_description(self.sending.ssrc, self.sending.stream_id)

    def measure(self, now: float) -> None:
        """Update the bitrate; called about once a second."""
        octets = self.octets
        if self._measured is not None and now > self._measured[0]:
            self.bitrate_bps = (octets - self._measured[1]) * 8 / (now - self._measured[0])
        self._measured = (now, octets)

    def receive_report(self, report: rtcp.Report, now: float) -> None:
        """Take what the receiver tells of this stream."""
        self.loss = report.fraction_lost / 256
        self.jitter = float(report.jitter)
        sent_at = self._reports_sent.get(report.last_sr)
        if report.last_sr and sent_at is not None:
            self.round_trip_s = max(0.0, now - sent_at - report.delay_since_sr / 65536)


# A packet that waits for its turn, who sends it, and of which layer it is.
Waiting = tuple[Leg, Layer, RtpPacket]
