"""The RTP of one peer: what it publishes and what it receives, by numbers only.

Bytes and `now` come in, decrypted; what goes out goes through the outlet. No socket, no
clock, no cipher.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sfu.media import rtcp
from sfu.media.codecs import KEYFRAME_PEEK_BYTES, RTX, starts_keyframe
from sfu.media.leg import Leg
from sfu.media.nack import NackGenerator
from sfu.media.negotiation import (
    AUDIO_LEVEL_URI,
    MID_URI,
    REPAIRED_RID_URI,
    RID_URI,
    TRANSPORT_CC_URI,
    Section,
)
from sfu.media.outlet import NOWHERE, SubscriberOutlet
from sfu.media.packet import MAX_PACKET_BYTES, ONE_BYTE_PROFILE, RtpPacket
from sfu.media.quality import Quality, score
from sfu.media.subscriptions import Subscriptions
from sfu.media.track import LAYER_SILENT_S, Layer, SenderClock, Track
from sfu.media.transport_cc import ArrivalRecorder

# RFC 3550 asks for 5 s; browsers report each second, and a call of two is small.
REPORT_INTERVAL_S: Final = 1.0

# SSRCs that one peer may send with: ten simulcast cameras with their repair streams. More
# is somebody guessing.
MAX_INCOMING_SSRCS: Final = 64


@dataclass(frozen=True, slots=True)
class Publication:
    """What the client says of an m-line on which it publishes."""

    track_id: str
    source: str
    name: str = ""
    muted: bool = False


class RtpSession:
    """Tracks and legs of one peer."""

    def __init__(self, outlet: SubscriberOutlet, ssrc: int) -> None:
        self._outlet, self._counters = outlet, outlet.counters
        self._ssrc = ssrc  # under which we report
        # False until the call is active for this peer: what comes before is not forwarded.
        self.admitted = False
        # By mid.
        self.tracks: dict[str, Track] = {}
        self.subscriptions = Subscriptions(outlet, self._wake)
        self._sections: dict[str, Section] = {}
        # By SSRC of the publisher; True where it is the repair stream.
        self._incoming: dict[int, tuple[Layer, bool]] = {}
        self._arrivals = ArrivalRecorder()
        # Ids of the transport-wide number and of the audio level, by mid; 0 where not agreed.
        self._noted_ids: dict[str, tuple[int, int]] = {}
        # Header extension → id; BUNDLE gives one id to one URI (RFC 9143 section 9.3).
        self._extension_ids: dict[str, int] = {}
        self._media_ssrc = 0
        # Of the FIR commands sent: a repeated number would be taken for a repeated packet.
        self._fir_number = 0
        self._reduced_size = False
        self._report_at = float("inf")
        # Earliest time at which handle_timer has something to do, and who is told when it becomes earlier.
        self.due = float("inf")
        self.called: Callable[[float], None] | None = None

    def _wake(self, at: float) -> None:
        if at < self.due:
            self.due = at
            if self.called is not None:
                self.called(at)

    @property
    def legs(self) -> dict[str, Leg]:
        """What the peer receives, by mid."""
        return self.subscriptions.legs

    # Negotiation

    def negotiate(self, sections: list[Section], publications: dict[str, Publication], now: float) -> None:
        """Take over what was agreed; what is no longer there ends."""
        self._sections = {section.mid: section for section in sections if not section.rejected}
        self._reduced_size = any(section.reduced_size for section in sections)
        self._extension_ids = {
            uri: number for section in self._sections.values() for number, uri in section.extensions.items()
        }
        receiving = {mid: s for mid, s in self._sections.items() if s.receives and mid in publications}
        for mid in [mid for mid in self.tracks if mid not in receiving]:
            self._end_track(self.tracks.pop(mid))
        for mid, section in receiving.items():
            self._begin_track(section, publications[mid], now)
        slots = [(s, s.sending) for s in self._sections.values() if s.sending is not None]
        self.subscriptions.end_all_but({section.mid for section, _ in slots})
        for section, sending in slots:
            self.subscriptions.begin(section, sending)
        self._report_at = min(self._report_at, now + REPORT_INTERVAL_S)
        self._wake(self._report_at)

    def _begin_track(self, section: Section, publication: Publication, now: float) -> None:
        track = self.tracks.get(section.mid)
        if track is None:
            track = self.tracks[section.mid] = Track(
                publication.track_id,
                section.mid,
                section.kind,
                publication.source,
                name=publication.name,
                muted=publication.muted,
                request_keyframe=self._request_keyframe,
            )
        codecs = {codec.payload_type: codec for codec in section.codecs}
        track.agree(codecs, section.extensions, now)
        self._noted_ids[section.mid] = (
            section.extension_id(TRANSPORT_CC_URI) or 0,
            section.extension_id(AUDIO_LEVEL_URI) or 0,
        )
        if not section.rids:
            repairs = {rtx: primary for primary, rtx in section.flows}
            primary = next((ssrc for ssrc in section.ssrcs if ssrc not in repairs), None)
            if primary is not None and primary not in self._incoming:
                self._bind(track, "", primary, now)
            for rtx, repaired in repairs.items():
                entry = self._incoming.get(repaired)
                if entry is not None and rtx not in self._incoming:
                    self._bind_repair(entry[0], rtx)

    def _end_track(self, track: Track) -> None:
        for ssrc in [ssrc for ssrc, (layer, _) in self._incoming.items() if layer.track is track]:
            del self._incoming[ssrc]

    def close(self) -> None:
        """Detach every leg, so that no fan-out knows this peer any more."""
        self.subscriptions.close()
        self._incoming.clear()
        self.due = self._report_at = float("inf")

    def release(self) -> None:
        """Let go of tracks and legs, and of the peer: nobody asks for them any more."""
        for track in self.tracks.values():
            track.end()
        self.tracks.clear()
        self._incoming.clear()  # packets may have come until now
        self._outlet, self.called = NOWHERE, None
        self.subscriptions.release(NOWHERE)

    # RTP

    def receive_rtp(self, data: bytes, now: float, arrived: float) -> None:
        """Take one decrypted RTP packet, which the kernel got at `arrived`."""
        counters = self._counters
        if len(data) > MAX_PACKET_BYTES:  # with our extensions it would not fit a row
            counters.drop("oversize")
            return
        try:
            packet = RtpPacket(data)
        except ValueError:
            counters.drop("malformed_rtp")
            return
        counters.packets_received += 1
        counters.bytes_received += len(data)
        entry = self._incoming.get(packet.ssrc) or self._recognise(packet, now)
        if entry is None:
            counters.drop("unknown_ssrc")
            return
        layer, is_repair = entry
        self._note_extensions(layer, packet, now, arrived)
        if is_repair:
            recovered = self._unwrap(layer, packet)
            if recovered is None:
                return
            packet = recovered
        else:
            layer.reception.receive(packet.sequence, packet.timestamp, len(data), arrived)
            if now - layer.last_packet_at > LAYER_SILENT_S:
                layer.track.layer_awoke(layer, now)
            layer.last_packet_at = now
        if not layer.history.add(packet, now):
            counters.drop("duplicate")
            return
        if is_repair:
            counters.packets_recovered += 1
        self._watch_loss(layer, packet, now)
        if self.admitted and not layer.track.is_silenced:
            layer.track.forward(layer, packet, now)
        else:
            counters.drop("silenced" if self.admitted else "not_admitted")

    def _note_extensions(self, layer: Layer, packet: RtpPacket, now: float, arrived: float) -> None:
        """Take note of the transport-wide number and of the audio level."""
        track = layer.track
        transport_cc, level = self._noted_ids[track.mid]
        if not packet.extension or not (transport_cc or level):
            return
        # Where the number stood in the packet before, it mostly stands again.
        data, at = packet.data, packet.extension + layer.number_at
        if (
            transport_cc
            and not level
            and at + 2 < packet.extension_end
            and data[at] == transport_cc << 4 | 1
            and packet.extension_profile == ONE_BYTE_PROFILE
        ):
            self._note_number(packet.ssrc, data[at + 1] << 8 | data[at + 2], arrived)
            return
        for identifier, value in packet.extensions():
            if identifier == transport_cc and len(value) == 2:
                self._note_number(packet.ssrc, value[0] << 8 | value[1], arrived)
                layer.number_at = data.find(bytes((transport_cc << 4 | 1,)) + value, packet.extension)
                layer.number_at = max(0, layer.number_at - packet.extension)
            elif identifier == level and value:
                track.level.receive(value[0], now)

    def _note_number(self, ssrc: int, number: int, arrived: float) -> None:
        self._media_ssrc = ssrc
        self._arrivals.receive(number, arrived)
        due = self._arrivals.next_timer()
        if due is not None and due < self.due:
            self._wake(due)

    def _watch_loss(self, layer: Layer, packet: RtpPacket, now: float) -> None:
        track = layer.track
        if track.kind != "video":
            return
        if layer.keyframes.is_wanted or not layer.height:
            codec = track.codecs.get(packet.payload_type)
            payload = packet.peek(KEYFRAME_PEEK_BYTES)
            if codec is not None and starts_keyframe(codec.name, payload):
                layer.keyframes.arrived()
                layer.note_keyframe(codec.name, packet, now)
        nack = layer.nack
        if nack is None:
            return
        lost = nack.receive(packet.sequence, now)
        if lost:
            self._send_nack(layer, lost)
        if nack.is_waiting:
            self._wake(nack.next_timer() or now)
        if nack.gave_up:
            nack.gave_up = False
            track.want_keyframe(layer, now)
            self._wake(now)

    def _unwrap(self, layer: Layer, packet: RtpPacket) -> RtpPacket | None:
        """Return the packet that an rtx packet repeats (RFC 4588 section 4); None for padding."""
        codec = layer.track.codecs.get(packet.payload_type)
        if codec is None or codec.repairs is None or packet.end - packet.payload <= 2:
            return None
        data, at = packet.data, packet.payload
        header = bytearray(data[:at])
        header[0] &= 0xDF  # the padding stays behind
        header[1] = packet.marker << 7 | codec.repairs
        header[2:4] = data[at : at + 2]
        header[8:12] = layer.ssrc.to_bytes(4, "big")
        return RtpPacket(bytes(header) + data[at + 2 : packet.end])

    # Whose packet is it

    def _recognise(self, packet: RtpPacket, now: float) -> tuple[Layer, bool] | None:
        """Bind an SSRC that the description did not name: by mid and rid, else by payload type."""
        if len(self._incoming) >= MAX_INCOMING_SSRCS:
            return None
        mid, rid, repaired = self._names(packet)
        track = self.tracks.get(mid) if mid else self._only_track_with(packet.payload_type)
        codec = track.codecs.get(packet.payload_type) if track is not None else None
        if track is None or codec is None:
            return None
        section = self._sections[track.mid]
        if codec.name == RTX or repaired:
            layer = track.layers.get(repaired or rid)
            if layer is None:
                return None
            return self._bind_repair(layer, packet.ssrc)
        if section.rids and rid not in section.rids:
            return None
        return self._bind(track, rid if section.rids else "", packet.ssrc, now)

    def _names(self, packet: RtpPacket) -> tuple[str, str, str]:
        """Return (mid, rid, repaired rid) from the header extensions, empty where absent."""
        if not packet.extension:
            return "", "", ""
        values, ids = dict(packet.extensions()), self._extension_ids
        mid, rid, repaired = (
            values.get(ids.get(uri, -1), b"").decode("ascii", "replace")
            for uri in (MID_URI, RID_URI, REPAIRED_RID_URI)
        )
        return mid, rid, repaired

    def _only_track_with(self, payload_type: int) -> Track | None:
        """Return the one track that waits for its first packet and may send this, if it is one."""
        found = [track for track in self.tracks.values() if payload_type in track.codecs]
        return found[0] if len(found) == 1 and not found[0].layers else None

    def _bind(self, track: Track, rid: str, ssrc: int, now: float) -> tuple[Layer, bool]:
        codec = track.primary_codec()
        layer = Layer(track, rid, ssrc, codec.clock_rate if codec is not None else 90_000)
        if track.kind == "video" and codec is not None and codec.has_feedback("nack"):
            layer.nack = NackGenerator()
        before = track.layers.get(rid)
        track.add_layer(layer, now)
        if before is not None:  # the client began again with a new SSRC
            for old in [s for s, (other, _) in self._incoming.items() if other is before]:
                del self._incoming[old]
        entry = self._incoming[ssrc] = (layer, False)
        return entry

    def _bind_repair(self, layer: Layer, ssrc: int) -> tuple[Layer, bool]:
        layer.rtx_ssrc = ssrc
        entry = self._incoming[ssrc] = (layer, True)
        return entry

    # RTCP

    def receive_rtcp(self, data: bytes, now: float) -> None:
        """Take one decrypted RTCP compound."""
        try:
            packets = rtcp.parse(data)
        except ValueError:
            self._counters.drop("malformed_rtcp")
            return
        for packet in packets:
            if isinstance(packet, rtcp.SenderReport):
                self._receive_sender_report(packet, now)
                self._receive_reports(packet.reports, now)
            elif isinstance(packet, rtcp.ReceiverReport):
                self._receive_reports(packet.reports, now)
            elif isinstance(packet, rtcp.Nack):
                self._counters.nacks_received += 1
                self.subscriptions.receive_nack(packet, now)
            elif isinstance(packet, rtcp.KeyframeRequest):
                self._counters.keyframe_requests_received += 1
                self.subscriptions.receive_keyframe_request(packet, now)
            elif isinstance(packet, rtcp.TransportFeedback):
                self.subscriptions.receive_feedback(packet.data, now)
            elif isinstance(packet, rtcp.Remb):
                self.subscriptions.receive_remb(packet)

    def _receive_reports(self, reports: tuple[rtcp.Report, ...], now: float) -> None:
        for report in reports:
            leg = self.subscriptions.receive_report(report, now)
            if leg is not None:
                self._learn_round_trip(leg)

    def _receive_sender_report(self, report: rtcp.SenderReport, now: float) -> None:
        entry = self._incoming.get(report.ssrc)
        if entry is not None and not entry[1]:
            entry[0].clock = SenderClock(report.ntp, report.timestamp, now)

    def _learn_round_trip(self, leg: Leg) -> None:
        if leg.round_trip_s is None:
            return
        for layer, _ in self._incoming.values():
            if layer.nack is not None:
                layer.nack.round_trip_s = leg.round_trip_s

    # What goes out by itself

    def handle_timer(self, now: float) -> None:
        """Do what is due: repeated NACKs, keyframe requests, feedback, reports, layers."""
        self.due = float("inf")
        for body in self._arrivals.handle_timer(now):
            self._send_feedback(rtcp.transport_feedback(self._ssrc, self._media_ssrc, body))
        for layer, is_repair in list(self._incoming.values()):
            if is_repair:
                continue
            if layer.nack is not None and len(layer.nack):
                lost = layer.nack.handle_timer(now)
                if lost:
                    self._send_nack(layer, lost)
                if layer.nack.gave_up:
                    layer.nack.gave_up = False
                    layer.track.want_keyframe(layer, now)
            if layer.keyframes.handle_timer(now):
                self._request_keyframe(layer, True)
        if now >= self._report_at:
            self._report_at = now + REPORT_INTERVAL_S
            self._report(now)
        self.subscriptions.handle_timer(now)
        self._wake(self._next_timer())

    def _next_timer(self) -> float:
        timers = [self._report_at, self._arrivals.next_timer()]
        for layer, is_repair in self._incoming.values():
            if not is_repair:
                timers.append(layer.keyframes.next_timer())
                timers.append(layer.nack.next_timer() if layer.nack is not None else None)
        return min((timer for timer in timers if timer is not None), default=float("inf"))

    def quality(self) -> Quality | None:
        """Return how well this peer is connected, both ways; None before anything flows."""
        down = self.subscriptions.quality()
        layers = [
            layer for layer, is_repair in self._incoming.values() if not is_repair and layer.bitrate_bps
        ]
        if not layers:
            return down
        loss = max(layer.loss for layer in layers)
        if down is not None:
            if loss <= down.loss:
                return down
            worse = min(down.score, score(loss, down.round_trip_s, down.jitter_s))
            return down._replace(loss=loss, score=worse)
        return Quality(score(loss, None, 0.0), loss, None, 0.0, sum(x.bitrate_bps for x in layers), None)

    def _report(self, now: float) -> None:
        blocks = []
        for layer, is_repair in self._incoming.values():
            if is_repair or not layer.reception.received:
                continue
            layer.measure(now)
            layer.history.expire(now)
            blocks.append(self._block(layer, now))
        self.subscriptions.report(now)
        for at in range(0, len(blocks), rtcp.MAX_REPORTS):
            chunk = tuple(blocks[at : at + rtcp.MAX_REPORTS])
            self._outlet.send_rtcp(
                rtcp.receiver_report(self._ssrc, chunk) + rtcp.source_description(self._ssrc, "sfu")
            )

    def _block(self, layer: Layer, now: float) -> rtcp.Report:
        reception, clock = layer.reception, layer.clock
        return rtcp.Report(
            ssrc=layer.ssrc,
            fraction_lost=layer.take_fraction_lost(),
            lost=reception.lost,
            highest_sequence=reception.extended_highest,
            jitter=int(reception.jitter),
            last_sr=clock.ntp >> 16 & 0xFFFFFFFF if clock is not None else 0,
            delay_since_sr=int((now - clock.heard_at) * 65536) if clock is not None else 0,
        )

    def _send_feedback(self, packet: bytes) -> None:
        """Send feedback alone where reduced size was agreed (RFC 5506), else in a compound."""
        if not self._reduced_size:
            packet = rtcp.receiver_report(self._ssrc) + rtcp.source_description(self._ssrc, "sfu") + packet
        self._outlet.send_rtcp(packet)

    def _send_nack(self, layer: Layer, lost: list[int]) -> None:
        self._counters.nacks_sent += 1
        self._send_feedback(rtcp.nack(self._ssrc, layer.ssrc, lost))

    def _request_keyframe(self, layer: Layer, send: bool) -> None:
        if send:
            self._counters.keyframe_requests_sent += 1
            self._send_feedback(self._keyframe_request(layer))
        self._wake(layer.keyframes.next_timer() or self.due)
        if layer.track.is_hint_due:  # somebody wants an encoding that sleeps: tell at the next tick
            self._wake(0.0)

    def _keyframe_request(self, layer: Layer) -> bytes:
        """Return a PLI, or a FIR to a publisher that agreed to nothing else (RFC 5104 section 4.3.1)."""
        codec = layer.track.primary_codec()
        if codec is not None and codec.has_feedback("ccm fir") and not codec.has_feedback("nack pli"):
            self._fir_number += 1
            return rtcp.full_intra_request(self._ssrc, layer.ssrc, self._fir_number)
        return rtcp.picture_loss(self._ssrc, layer.ssrc)
