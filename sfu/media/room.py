"""One room: who is in it, what each publishes, and which slots show it.

Owned by the loop's thread; no method awaits, so nothing happens in between.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiortc import RTCDataChannel

from sfu import clock
from sfu.errors import NotAllowed
from sfu.media.allocation import Preference
from sfu.media.audio_level import in_steps
from sfu.media.negotiation import Section
from sfu.media.peer_connection import PeerConnection
from sfu.media.slots import Candidate, Slot, assign
from sfu.media.track import Track

# Speakers that are told at once; nobody follows more voices.
MAX_SPEAKERS = 8

# Slots that are of use to anybody: of voices only the loudest are heard, a screen holds so many faces.
MAX_WANTED = {"audio": 9, "video": 25}

# Whoever speaks takes a turn of this length: within it nobody takes another's slot for a syllable.
TURN_S = 2.0

# How often a member is told of its own connection at least.
QUALITY_S = 5.0

# In a larger room nobody follows everybody's connection.
MAX_TOLD_OF_QUALITY = 50

Emit = Callable[[str, str, dict[str, Any]], None]


@dataclass(slots=True)
class Member:
    """One peer in a room."""

    peer_id: str
    user_id: str
    name: str
    hidden: bool
    connection: PeerConnection
    # False while the call rings: connected, perhaps, but neither heard nor hearing.
    admitted: bool = False
    # When its liveness, layers and quality are looked at next: each at its own time, not all at once.
    look_at: float = 0.0
    # Mid → id of the track in that slot.
    bound: dict[str, str] = field(default_factory=dict)
    # Number of the turn in which it was heard last; 0 before.
    turn: int = 0
    # (audio, video) slots that it was told would help.
    wanted: tuple[int, int] = (0, 0)
    # Mid → rid of the layer that was told last, None while it is paused.
    layers: dict[str, str | None] = field(default_factory=dict)
    # The score that was told last, and when.
    score: int = 0
    score_told_at: float = float("-inf")
    # By track id.
    preferences: dict[str, Preference] = field(default_factory=dict)
    # The open data channel labelled `sfu`, if there is one.
    channel: RTCDataChannel | None = None

    @property
    def tracks(self) -> dict[str, Track]:
        """What it publishes, by track id."""
        return {track.id: track for track in self.connection.rtp.tracks.values()}

    def describe(self) -> dict[str, Any]:
        """Return the participant as clients see it."""
        return {
            "participant_id": self.peer_id,
            "user_id": self.user_id,
            "name": self.name,
            "tracks": [describe_track(track) for track in self.tracks.values()],
        }


def describe_track(track: Track) -> dict[str, Any]:
    """Return a track as clients see it."""
    return {
        "track_id": track.id,
        "kind": track.kind,
        "source": track.source,
        "name": track.name,
        "muted": track.muted,
    }


class Watcher(Protocol):
    """Somebody who sees a room from outside: a recorder."""

    def published(self, tracks: dict[str, tuple[Member, Track]]) -> None:
        """Take note of every track that may be seen now, by its id."""

    def told(self, type_: str, data: dict[str, Any]) -> None:
        """Take note of what the members were told."""


class Room:
    """Members, their tracks and their slots."""

    def __init__(self, name: str, emit: Emit) -> None:
        self.name = name
        self._emit = emit
        self.watchers: list[Watcher] = []
        self.members: dict[str, Member] = {}
        # Who was heard when this was told last, with levels in steps.
        self._speakers: list[dict[str, Any]] = []
        # Whether somebody has fewer slots than there are tracks: slots follow speech then.
        self._is_crowded = False

    # Coming and going

    def add(self, member: Member) -> None:
        """Take a member in, not yet admitted."""
        self.members[member.peer_id] = member

    def admit(self, member: Member) -> None:
        """Let media pass for a member, and show it to the others; once is enough."""
        if member.admitted:
            return
        member.admitted = member.connection.rtp.admitted = True
        if not member.hidden:
            self._tell_others(member, "media.participant_joined", {"participant": member.describe()})
        self._bind_after(member, bool(member.connection.rtp.tracks))

    def remove(self, member: Member) -> None:
        """Let a member go; its tracks leave the slots of the others."""
        if self.members.pop(member.peer_id, None) is None:
            return
        if member.admitted and not member.hidden:
            self._tell_others(member, "media.participant_left", {"participant_id": member.peer_id})
        if member.connection.rtp.tracks:
            self.bind()

    def negotiated(self, member: Member, tracks_before: dict[str, Track]) -> None:
        """Take over what a member negotiated: tell of tracks that came and went, fill slots."""
        tracks = member.tracks
        if member.admitted and not member.hidden:
            for track_id in tracks_before.keys() - tracks.keys():
                data = {"participant_id": member.peer_id, "track_id": track_id}
                self._tell_others(member, "media.track_unpublished", data)
            for track_id in tracks.keys() - tracks_before.keys():
                published = {"participant_id": member.peer_id, "track": describe_track(tracks[track_id])}
                self._tell_others(member, "media.track_published", published)
        self._bind_after(member, tracks.keys() != tracks_before.keys())

    def connected(self, member: Member) -> None:
        """A member can receive now: what waits for a keyframe asks for it."""
        for leg in member.connection.rtp.legs.values():
            leg.layers_changed(clock.now())

    def participants(self, member: Member) -> list[dict[str, Any]]:
        """Return everybody whom a member may see, itself included."""
        return [
            other.describe()
            for other in self.members.values()
            if other is member or (other.admitted and member.admitted and not other.hidden)
        ]

    # Slots

    def bind(self) -> None:
        """Put tracks into everybody's slots anew; who sees a change is told."""
        self._is_crowded = False
        self._bind(list(self.members.values()))
        for watcher in self.watchers:
            watcher.published(self._published())

    def watch(self, watcher: Watcher) -> None:
        """Let somebody see who is there, and what is published from now on."""
        self.watchers.append(watcher)
        for member in self.members.values():
            if member.admitted and not member.hidden:
                watcher.told("media.participant_joined", {"participant": member.describe()})
        watcher.published(self._published())

    def _bind_after(self, member: Member, published: bool) -> None:
        """Bind after a change of one member: everybody sees what it publishes, itself what it takes."""
        if published and member.admitted and not member.hidden:
            self.bind()
        else:
            self._bind([member])

    def _bind(self, members: list[Member]) -> None:
        now, published = clock.now(), self._published()
        for member in members:
            if self._bind_member(member, published, now):
                self._emit(member.peer_id, "media.slots", {"slots": self.slots(member)})

    def _published(self) -> dict[str, tuple[Member, Track]]:
        """Return every track that somebody may see."""
        return {
            track_id: (member, track)
            for member in self.members.values()
            if member.admitted and not member.hidden
            for track_id, track in member.tracks.items()
        }

    def _visible(self, member: Member) -> dict[str, tuple[Member, Track]]:
        return self._published() if member.admitted else {}

    def _bind_member(self, member: Member, published: dict[str, tuple[Member, Track]], now: float) -> bool:
        if not member.admitted:
            published = {}
        none = Preference()
        candidates = [
            Candidate(
                track_id,
                other.peer_id,
                track.kind,
                track.source,
                member.preferences[track_id].priority if track_id in member.preferences else 0,
                other.turn,
            )
            for track_id, (other, track) in published.items()
            if other is not member
        ]
        self._tell_wanted(member, candidates)
        pins = {mid: t for mid, t in member.bound.items() if member.preferences.get(t, none).pinned}
        wanted = assign(_slots(member.connection.sections, pins), candidates, member.bound)
        subscriptions, changed = member.connection.rtp.subscriptions, wanted != member.bound
        for mid, leg in subscriptions.legs.items():
            track_id = wanted.get(mid)
            track = published[track_id][1] if track_id is not None else None
            if member.preferences.get(track_id or "", none).paused:
                track = None
            if leg.track is not track:
                leg.detach()
                if track is not None:
                    leg.attach(track, now)
            subscriptions.prefer(mid, member.preferences.get(track_id or ""))
        subscriptions.settle(now)
        member.bound = wanted
        return changed

    def _tell_wanted(self, member: Member, candidates: list[Candidate]) -> None:
        """Tell a member how many slots would show everything, when it has fewer."""
        kinds = [leg.kind for leg in member.connection.rtp.legs.values()]
        if not kinds:
            return
        wanted = []
        for kind in ("audio", "video"):
            tracks = sum(candidate.kind == kind for candidate in candidates)
            self._is_crowded = self._is_crowded or tracks > kinds.count(kind)
            wanted.append(max(kinds.count(kind), min(tracks, MAX_WANTED[kind])))
        audio, video = wanted
        if (audio, video) != member.wanted and (audio > kinds.count("audio") or video > kinds.count("video")):
            self._emit(member.peer_id, "media.want", {"audio": audio, "video": video})
        member.wanted = (audio, video)

    def slots(self, member: Member) -> list[dict[str, Any]]:
        """Return every slot of a member and what stands in it."""
        visible: dict[str, tuple[Member, Track]] = self._visible(member)
        described = []
        for mid, leg in member.connection.rtp.legs.items():
            found = visible.get(member.bound.get(mid, ""))
            entry: dict[str, Any] = {
                "mid": mid,
                "kind": leg.kind,
                "track_id": None,
                "participant_id": None,
                "source": None,
                "muted": False,
                "paused": False,
                "layer": None,
            }
            if found is not None:
                other, track = found
                preference = member.preferences.get(track.id)
                entry |= {
                    "track_id": track.id,
                    "participant_id": other.peer_id,
                    "source": track.source,
                    "muted": track.muted,
                    "paused": leg.is_paused or (preference is not None and preference.paused),
                    "layer": leg.layer.rid if leg.layer is not None and leg.layer.rid else None,
                }
            described.append(entry)
        return described

    def tell_layers(self, member: Member) -> None:
        """Tell a member when its slots show other layers than it was told."""
        legs = member.connection.rtp.legs
        layers = {
            mid: None if leg.layer is None else leg.layer.rid
            for mid, leg in legs.items()
            if leg.is_paused or (leg.layer is not None and leg.layer.rid)
        }
        if layers != member.layers:
            member.layers = layers
            self._emit(member.peer_id, "media.slots", {"slots": self.slots(member)})

    def tell_hints(self, member: Member, now: float, *, look: bool) -> None:
        """Tell a publisher which of its encodings somebody takes; `look`: whether or not it is urgent."""
        if not member.admitted:
            return
        for track in member.connection.rtp.tracks.values():
            if track.kind != "video" or not (look or track.is_hint_due):
                continue
            active = track.take_hint(now)
            if active is not None:
                data = {"mid": track.mid, "track_id": track.id, "active": active}
                self._emit(member.peer_id, "media.layers", data)

    def tell_quality(self, member: Member, now: float) -> None:
        """Tell a member how well it is connected, now and then; the others when that changed."""
        quality = member.connection.rtp.quality() if member.admitted else None
        if quality is None:
            return
        changed = quality.score != member.score
        if not changed and now - member.score_told_at < QUALITY_S:
            return
        member.score, member.score_told_at = quality.score, now
        trip = quality.round_trip_s
        data = {
            "participant_id": member.peer_id,
            "score": quality.score,
            "loss": round(quality.loss, 3),
            "rtt_ms": round(trip * 1000) if trip is not None else None,
            "bitrate_bps": round(quality.bitrate_bps),
        }
        estimate = quality.estimate_bps
        own = data | {
            "jitter_ms": round(quality.jitter_s * 1000),
            "estimate_bps": round(estimate) if estimate is not None else None,
            "slots": self._slot_qualities(member),
        }
        self._emit(member.peer_id, "media.quality", own)
        if changed and not member.hidden and len(self.members) <= MAX_TOLD_OF_QUALITY:
            self._tell_others(member, "media.quality", data)

    @staticmethod
    def _slot_qualities(member: Member) -> list[dict[str, Any]]:
        """Return how each slot arrives through which something flows."""
        return [
            {
                "mid": leg.mid,
                "layer": leg.layer.rid or None,
                "bitrate_bps": round(leg.bitrate_bps),
                "loss": round(leg.loss, 3),
                "jitter_ms": round(leg.jitter / leg.clock_rate * 1000),
                "limited": leg.is_limited,
            }
            for leg in member.connection.rtp.legs.values()
            if leg.layer is not None
        ]

    def tell_speakers(self, now: float) -> None:
        """Tell everybody who speaks, loudest first, when it is not as it was told last."""
        heard: list[tuple[float, str]] = []
        turn, newcomers = int(now / TURN_S) + 1, False
        for member in self.members.values():
            if member.admitted and not member.hidden:
                voices = [t.level.loudness(now) for t in member.tracks.values() if not t.muted]
                level = in_steps(max(voices, default=0.0))
                if level:
                    heard.append((level, member.peer_id))
                    newcomers = newcomers or member.turn != turn
                    member.turn = turn
        if newcomers and self._is_crowded:
            self.bind()
        heard.sort(key=lambda speaker: (-speaker[0], speaker[1]))
        speakers = [{"participant_id": peer_id, "level": level} for level, peer_id in heard[:MAX_SPEAKERS]]
        if speakers == self._speakers:
            return
        self._speakers = speakers
        for watcher in self.watchers:
            watcher.told("media.speakers", {"speakers": speakers})
        for member in list(self.members.values()):
            if member.admitted:
                self._emit(member.peer_id, "media.speakers", {"speakers": speakers})

    # What members say

    def silence(self, member: Member, track: Track, silenced: bool) -> None:
        """Somebody who looks after the room mutes a track, or lets it be heard again."""
        track.is_silenced = False
        self.mute(member, track, silenced)
        track.is_silenced = silenced
        data = {"participant_id": member.peer_id, "track_id": track.id, "muted": silenced, "by_host": True}
        self._emit(member.peer_id, "media.track_muted", data)

    def mute(self, member: Member, track: Track, muted: bool) -> None:
        """Tell everybody that a track is muted or not.

        Raises:
            NotAllowed: it was silenced by somebody else.

        """
        if track.is_silenced and not muted:
            raise NotAllowed("This track was muted by the host.", code="muted_by_host")
        if track.muted == muted:
            return
        track.muted = muted
        if member.admitted and not member.hidden:
            data = {"participant_id": member.peer_id, "track_id": track.id, "muted": muted}
            self._tell_others(member, "media.track_muted", data)

    def prefer(self, member: Member, track_id: str, preference: Preference) -> None:
        """Take what a receiver needs of a track."""
        member.preferences[track_id] = preference
        self.bind()
        self._emit(member.peer_id, "media.slots", {"slots": self.slots(member)})

    def recipients(self, member: Member, to: list[str] | None) -> list[Member]:
        """Return whom data of a member goes to: those named, or everybody else."""
        return [
            other
            for other in self.members.values()
            if other is not member and other.admitted and (to is None or other.peer_id in to)
        ]

    def _tell_others(self, member: Member, type_: str, data: dict[str, Any]) -> None:
        for watcher in self.watchers:
            watcher.told(type_, data)
        for other in list(self.members.values()):
            if other is not member and other.admitted:
                self._emit(other.peer_id, type_, data)


def _slots(sections: list[Section], pins: dict[str, str]) -> list[Slot]:
    numbers = {"audio": 0, "video": 0}
    slots = []
    for section in sections:
        if section.sending is not None:
            slots.append(Slot(section.mid, section.kind, numbers[section.kind], pins.get(section.mid)))
            numbers[section.kind] += 1
    return slots
