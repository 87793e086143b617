"""What a recording sees of a room: one leg a track, which hands packets on as they came, decrypted.

A leg takes the best encoding there is, and the next one with its keyframe. Nothing here waits: what the
process that writes does not take in time is dropped and counted by the outlet.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from sfu import clock
from sfu.media.batch import Batch, Lane, Offsets
from sfu.media.codecs import KEYFRAME_PEEK_BYTES, starts_keyframe
from sfu.media.packet import RtpPacket
from sfu.media.profile import Profile
from sfu.media.room import Member
from sfu.media.track import Layer, SenderClock, Track

# Who looks at a recording later finds a place by the keyframe before it: there is one at least so often.
KEYFRAME_EVERY_S = 20.0

# What the members are told and the event log keeps, and under which name.
_KEPT = {
    "media.participant_joined": "participant_joined",
    "media.participant_left": "participant_left",
    "media.track_published": "track_published",
    "media.track_unpublished": "track_unpublished",
    "media.track_muted": "track_muted",
    "media.speakers": "speakers",
}


class Outlet(Protocol):
    """The way to the process that writes, for one recording."""

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell it something that may not get lost."""

    def send_media(self, source: int, at_us: int, packet: bytes) -> None:
        """Give it a packet, or count it as dropped."""


class TapLeg:
    """One track of somebody, for one recording."""

    def __init__(self, tap: "RoomTap", member: Member, track: Track) -> None:
        self.member, self.track, self._tap = member, track, tap
        self.layer: Layer | None = None
        self.target: Layer | None = None
        # Number of the source that is written now; 0 before the first packet.
        self.source = 0
        self._clock: SenderClock | None = None
        # When a keyframe was asked for last, or the source began with one.
        self._keyframe_at = clock.now()

    def attach(self, now: float) -> None:
        """Take the track's packets from now on."""
        self.track.fan_out.add(self)
        self.layers_changed(now)

    def detach(self) -> None:
        """Take none any more."""
        self.track.fan_out.remove(self)
        self._end_source()
        self.layer = self.target = None

    def begin_again(self, now: float) -> None:
        """Begin with a keyframe: what came before was not written."""
        self.keyframe_wanted(now)

    def keyframe_wanted(self, now: float) -> None:
        """Pass the wish for a keyframe on."""
        layer = self.layer or self.target
        if layer is not None and self.track.kind == "video":
            self.track.want_keyframe(layer, now)

    def tick(self) -> None:
        """Look whether another encoding is better now, or this one stopped; tell of the sender's clock."""
        now = clock.now()
        self.layers_changed(now)
        if now - self._keyframe_at >= KEYFRAME_EVERY_S and not self._tap.is_paused:
            self._keyframe_at = now
            self.keyframe_wanted(now)
        told = self.layer.clock if self.layer is not None else None
        if told is not None and told is not self._clock:
            self._clock = told
            self._tap.event(
                "sender_report",
                {
                    "track_id": self.track.id,
                    "ssrc": self.layer.ssrc if self.layer is not None else 0,
                    "ntp": told.ntp,
                    "rtp_timestamp": told.timestamp,
                    "heard_ms": self._tap.ms(told.heard_at),
                },
            )

    # What the fan-out wants of a leg

    def forward(self, layer: Layer, packet: RtpPacket, now: float) -> None:
        """Hand a packet on, if it is of the encoding that is recorded."""
        if layer is self.layer and not self._tap.is_paused:
            self._tap.media(self.source, packet.data, now)

    def begin(self, layer: Layer, packet: RtpPacket, now: float) -> None:
        """Record another encoding from its next keyframe on."""
        if self._tap.is_paused or layer is not self.target or layer is self.layer:
            return
        if self.track.kind == "video":
            codec = self.track.codecs.get(packet.payload_type)
            if codec is None or not starts_keyframe(codec.name, packet.peek(KEYFRAME_PEEK_BYTES)):
                self.track.want_keyframe(layer, now)
                return
        self._end_source()
        self.layer, self._clock, self._keyframe_at = layer, None, now
        self.track.fan_out.changed(self)
        self.source = self._tap.begin_source(self.member, self.track, layer)

    def _end_source(self) -> None:
        if self.source:
            self._tap.end_source(self.source)
            self.source = 0

    def layers_changed(self, now: float) -> None:
        """Aim at the best encoding there is."""
        best = self.track.best_layer(now, self.layer)
        if best is not self.target:
            self.target = best
            self.track.fan_out.changed(self)
            if best is not None and best is not self.layer:
                self.track.want_keyframe(best, now)

    def format_changed(self, now: float) -> None:
        """Tell of the payload types anew: the publisher negotiated."""
        self._end_source()
        self.layer = None
        self.track.fan_out.changed(self)
        self.layers_changed(now)

    def lane(self) -> tuple[Lane, Profile, int] | None:
        """Return no way into a batch: there is nothing to encrypt."""
        return None

    def enter(self, batch: Batch | None) -> None:
        """Take note of nothing: it is in no batch."""

    def offsets(self) -> Offsets:
        """Never asked: it is in no batch."""
        raise NotImplementedError

    def newest(self) -> int:
        """Never asked: it is in no batch."""
        raise NotImplementedError


class RoomTap:
    """Everything of one room that one recording keeps."""

    def __init__(self, number: int, outlet: Outlet, began_at: float) -> None:
        self._number, self._outlet, self._began_at = number, outlet, began_at
        self._legs: dict[str, TapLeg] = {}
        self._by_source: dict[int, TapLeg] = {}
        self._sources = 0
        self.is_paused = False
        # What is published, and whose of it is taken; None: everybody's.
        self._published: dict[str, tuple[Member, Track]] = {}
        self._only: frozenset[str] | None = None

    def ms(self, at: float) -> int:
        """Return a moment as milliseconds since the recording began."""
        return max(0, round((at - self._began_at) * 1000))

    @property
    def is_receiving(self) -> bool:
        """Whether packets came lately that are to be written."""
        now = clock.now()
        return any(leg.layer is not None and leg.layer.is_alive(now) for leg in self._legs.values())

    # What the room tells

    def published(self, tracks: dict[str, tuple[Member, Track]]) -> None:
        """Record exactly these tracks, but nothing of who is not to be."""
        self._published, now = tracks, clock.now()
        if self._only is not None:
            tracks = {id_: found for id_, found in tracks.items() if found[0].user_id in self._only}
        for track_id in [track_id for track_id in self._legs if track_id not in tracks]:
            self._legs.pop(track_id).detach()
        for track_id, (member, track) in tracks.items():
            if track_id not in self._legs:
                self._legs[track_id] = TapLeg(self, member, track)
                self._legs[track_id].attach(now)

    def take_only(self, user_ids: frozenset[str]) -> None:
        """Record what these users publish, and nobody else's."""
        if user_ids != self._only:
            self._only = user_ids
            self.published(self._published)

    def told(self, type_: str, data: dict[str, Any]) -> None:
        """Keep what the members were told; in a pause not who speaks."""
        name = _KEPT.get(type_)
        if name is not None and not (self.is_paused and name == "speakers"):
            self.event(name, data)

    # What goes to the process that writes

    def event(self, name: str, data: Mapping[str, Any]) -> None:
        """Put a line into the event log."""
        self._send("event", name=name, data=dict(data), t_ms=self.ms(clock.now()))

    def media(self, source: int, packet: bytes, now: float) -> None:
        self._outlet.send_media(source, max(0, round((now - self._began_at) * 1e6)), packet)

    def begin_source(self, member: Member, track: Track, layer: Layer) -> int:
        """Tell of a source before its first packet; return its number."""
        self._sources += 1
        about = {
            "kind": track.kind,
            "track_id": track.id,
            "participant_id": member.peer_id,
            "user_id": member.user_id,
            "user_name": member.name,
            "source": track.source,
            "rid": layer.rid,
            "ssrc": layer.ssrc,
        }
        formats = {str(pt): [c.name, c.clock_rate, c.channels] for pt, c in track.codecs.items()}
        self._by_source[self._sources] = self._legs[track.id]
        self._send("source", source=self._sources, about=about, formats=formats)
        return self._sources

    def end_source(self, source: int) -> None:
        self._by_source.pop(source, None)
        self._send("source_end", source=source)

    def pause(self, data: Mapping[str, Any]) -> None:
        """Hand no packet on until it is resumed."""
        self.is_paused = True
        self._send("pause", data=dict(data), t_ms=self.ms(clock.now()))

    def resume(self, data: Mapping[str, Any]) -> None:
        """Go on, with keyframes."""
        self.is_paused = False
        self._send("resume", data=dict(data), t_ms=self.ms(clock.now()))
        for leg in self._legs.values():
            leg.begin_again(clock.now())

    def keyframe_wanted(self, source: int) -> None:
        """Ask whoever sends a source for a keyframe."""
        leg = self._by_source.get(source)
        if leg is not None:
            leg.keyframe_wanted(clock.now())

    def tick(self) -> None:
        """Look at the clocks of the senders; called once a second."""
        for leg in self._legs.values():
            leg.tick()

    def detach(self) -> None:
        """Take nothing any more."""
        for leg in self._legs.values():
            leg.detach()
        self._legs.clear()
        self._published = {}

    def close(self, reason: str) -> None:
        """Take nothing any more; the recording is sealed."""
        self.detach()
        self._send("close", reason=reason, t_ms=self.ms(clock.now()))

    def _send(self, type_: str, **data: Any) -> None:
        self._outlet.send({"type": type_, "rec": self._number, **data})
