"""What an archive is told of a recording: SIP recording metadata (RFC 7865), as XML.

The communication session is the call, a stream a track that was recorded, a participant one connection of
somebody to the call. What was paused was not associated with the recording. Everybody who was in the call
while a track was sent is told as its receiver: what each of them really took is in no log.

Pure: the manifest and the events in, bytes out. Both may be anybody's: what is not as we write it is left
out.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid5
from xml.etree import ElementTree

NAMESPACE = "urn:ietf:params:xml:ns:recording:1"

# For what RFC 7865 has no word, where it lets others have theirs: the recording's ids, the files of a stream.
EXTENSION = "urn:sfu:recording:1"

# Ids are UUIDs (RFC 4122 section 4.3) of what they are of, in this space.
_SPACE = UUID("e85ae712-ee1f-4485-8e12-fadd8079233d")

# Nobody's address, and the domain of users who have none (RFC 3323 section 4.1.1.3, RFC 2606 section 2).
_NOBODY, _DOMAIN = "sip:anonymous@anonymous.invalid", "sfu.invalid"

_URI = re.compile(r"(?:sips?|tel):[A-Za-z0-9@.:;=+_~!*'()-]+")
_ADDRESS = re.compile(r"[A-Za-z0-9.+_~!*'()-]+@[A-Za-z0-9.-]+")

_DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>\n'

# What XML 1.0 cannot hold (section 2.2).
_NO_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# From and to, in milliseconds since the recording began.
Span = tuple[int, int]


def text(value: Any) -> str:
    """Return a value that should be a text; empty if it is none."""
    return value if isinstance(value, str) else ""


def number(value: Any) -> int:
    """Return a value that should be a count or milliseconds; 0 if it is none."""
    return value if type(value) is int and 0 <= value < 1 << 53 else 0


def entries(value: Any) -> list[dict[str, Any]]:
    """Return a value that should be a list of objects; empty if it is none."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


@dataclass(slots=True)
class Participant:
    """One connection of somebody to the call, and when it was there."""

    participant_id: str
    user_id: str = ""
    name: str = ""
    spans: list[Span] = field(default_factory=list)
    # Since when it is there now; None while it is not.
    since: int | None = None


@dataclass(slots=True)
class Stream:
    """A track that was recorded, from its first source to the end of its last."""

    track_id: str
    participant_id: str
    span: Span
    files: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Account:
    """Who was there when, and what was recorded of them."""

    # When the recording began, if that is told.
    began: datetime | None = None
    duration_ms: int = 0
    participants: dict[str, Participant] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)

    def at(self, ms: int) -> datetime | None:
        """Return a moment of the recording as a time of day."""
        try:
            return None if self.began is None else self.began + timedelta(milliseconds=ms)
        except OverflowError:
            return None

    # What the log and the manifest tell

    def met(self, data: Mapping[str, Any]) -> Participant | None:
        """Take note of somebody of whom something tells; of whom no coming was told was there before."""
        participant_id = text(data.get("participant_id"))
        if not participant_id:
            return None
        if participant_id not in self.participants:
            self.participants[participant_id] = Participant(participant_id, since=0)
        found = self.participants[participant_id]
        found.user_id = found.user_id or text(data.get("user_id"))
        found.name = found.name or text(data.get("user_name")) or text(data.get("name"))
        return found

    def joined(self, data: Any, at: int) -> None:
        """Somebody came."""
        about = data if isinstance(data, dict) else {}
        is_new = text(about.get("participant_id")) not in self.participants
        found = self.met(about)
        if found is not None and (is_new or found.since is None):
            found.since = at

    def left(self, data: Mapping[str, Any], at: int) -> None:
        """Somebody went."""
        found = self.met(data)
        if found is not None and found.since is not None:
            found.spans.append((found.since, max(found.since, at)))
            found.since = None

    def sent(self, data: Mapping[str, Any], span: Span) -> Stream | None:
        """Take note of a track that was recorded at a time."""
        found, track_id = self.met(data), text(data.get("track_id"))
        if found is None or not track_id:
            return None
        stream = self.streams.setdefault(track_id, Stream(track_id, found.participant_id, span))
        stream.span = (min(stream.span[0], span[0]), max(stream.span[1], span[1]))
        return stream


def account(manifest: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> Account:
    """Return who was there, and what was recorded of them."""
    found = Account(_began(manifest, events))
    told = [number(manifest.get("duration_ms")), *(number(event["t_ms"]) for event in events[-1:])]
    found.duration_ms = end = max(told)
    open_: dict[str, int] = {}
    for event in events:
        data, at = event["data"], min(number(event["t_ms"]), end)
        if event["type"] == "participant_joined":
            found.joined(data.get("participant"), at)
        elif event["type"] == "participant_left":
            found.left(data, at)
        elif event["type"] == "source_started" and (stream := found.sent(data, (at, at))) is not None:
            open_[stream.track_id] = at
        elif event["type"] == "source_ended":
            track_id = text(data.get("track_id"))
            if open_.pop(track_id, None) is not None:
                stream = found.streams[track_id]
                stream.span = (stream.span[0], max(stream.span[1], at))
    for track_id in open_:
        found.streams[track_id].span = (found.streams[track_id].span[0], end)
    for file in entries(manifest.get("files")):
        at = min(number(file.get("start_ms")), end)
        stream = found.sent(file, (at, min(at + number(file.get("duration_ms")), end)))
        if stream is not None:
            stream.files.append(file)
    for participant in found.participants.values():
        found.left({"participant_id": participant.participant_id}, end)
    return found


def _began(manifest: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> datetime | None:
    told = [manifest.get("started_at"), *(event["data"].get("started_at") for event in events[:1])]
    for moment in told:
        try:
            began = datetime.fromisoformat(text(moment))
            return began.astimezone(UTC) if began.tzinfo is not None else None
        except (ValueError, OverflowError):
            continue
    return None


# The document


def metadata(manifest: Mapping[str, Any], events: Sequence[Mapping[str, Any]], recording_id: str) -> bytes:
    """Return the metadata of a recording, complete; `events` are those of `evidence.read_chain`.

    Elements stand in the order of the schema (RFC 7865 section 9).
    """
    told = account(manifest, events)
    call_id, room = text(manifest.get("call_id")), text(manifest.get("room"))
    group_id, session_id = _id("group", room or recording_id), _id("session", call_id or recording_id)
    root = ElementTree.Element("recording", {"xmlns": NAMESPACE})
    _add(root, "datamode", "complete")
    group = _add(root, "group", group_id=group_id)
    _times(group, told, (0, told.duration_ms))
    session = _add(root, "session", session_id=session_id)
    _add(session, "group-ref", group_id)
    _times(session, told, (0, told.duration_ms), ("start-time", "stop-time"))
    for participant in told.participants.values():
        entry = _add(root, "participant", participant_id=_id("participant", participant.participant_id))
        name_id = _add(entry, "nameID", aor=aor(participant.user_id))
        if participant.name:
            _add(name_id, "name", participant.name)
    for stream in told.streams.values():
        _add_stream(root, stream, session_id)
    for span in recorded(manifest, told.duration_ms):
        _times(_add(root, "sessionrecordingassoc", session_id=session_id), told, span)
    for participant in told.participants.values():
        person = _id("participant", participant.participant_id)
        for span in participant.spans:
            assoc = _add(root, "participantsessionassoc", participant_id=person, session_id=session_id)
            _times(assoc, told, span)
    for stream in told.streams.values():
        _add_associations(root, stream, told)
    names = ("recording_id", "call_id", "room", "end_reason")
    values = (recording_id, call_id, room, text(manifest.get("end_reason")))
    _add(root, "about", xmlns=EXTENSION, **dict(zip(names, values, strict=True)))
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, "utf-8", xml_declaration=False)
    return _DECLARATION + document + b"\n"


def recorded(manifest: Mapping[str, Any], duration_ms: int) -> list[Span]:
    """Return when it was recorded: from beginning to end, without the pauses."""
    spans: list[Span] = []
    at = 0
    for pause in entries(manifest.get("pauses")):
        begins = min(number(pause.get("from_ms")), duration_ms)
        ends = duration_ms if pause.get("to_ms") is None else min(number(pause.get("to_ms")), duration_ms)
        if begins > at:
            spans.append((at, begins))
        at = max(at, begins, ends)
    return [*spans, (at, duration_ms)] if at < duration_ms or not duration_ms else spans


def aor(user_id: str) -> str:
    """Return the address of record of a user: itself if it is one, else one in a domain that is none."""
    if not user_id:
        return _NOBODY
    if _URI.fullmatch(user_id):
        return user_id
    if _ADDRESS.fullmatch(user_id):
        return f"sip:{user_id}"
    return f"sip:{quote(user_id, safe='-_.!~*()', errors='replace')}@{_DOMAIN}"


def _add_stream(root: ElementTree.Element, stream: Stream, session_id: str) -> None:
    entry = _add(root, "stream", stream_id=_id("stream", stream.track_id), session_id=session_id)
    _add(entry, "label", stream.track_id)
    for file in stream.files:
        about = {name: text(file.get(name)) for name in ("name", "kind", "source", "codec", "sha256")}
        counts = {name: str(number(file.get(name))) for name in ("start_ms", "duration_ms", "bytes")}
        _add(entry, "file", xmlns=EXTENSION, **about, **counts)


def _add_associations(root: ElementTree.Element, stream: Stream, told: Account) -> None:
    """Tell who sent a stream, and who was there while it was sent."""
    stream_id = _id("stream", stream.track_id)
    sent = [("send", stream.participant_id, stream.span)]
    received = [
        ("recv", participant.participant_id, (max(since, stream.span[0]), min(until, stream.span[1])))
        for participant in told.participants.values()
        if participant.participant_id != stream.participant_id
        for since, until in participant.spans
        if since < stream.span[1] and until > stream.span[0]
    ]
    for how, participant_id, span in sent + received:
        assoc = _add(root, "participantstreamassoc", participant_id=_id("participant", participant_id))
        _add(assoc, how, stream_id)
        _times(assoc, told, span)


def _times(
    element: ElementTree.Element,
    told: Account,
    span: Span,
    names: tuple[str, str] = ("associate-time", "disassociate-time"),
) -> None:
    for name, ms in zip(names, span, strict=True):
        moment = told.at(ms)
        if moment is not None:
            _add(element, name, moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"))


def _add(parent: ElementTree.Element, tag: str, content: str = "", **attributes: str) -> ElementTree.Element:
    clean = {name: _NO_XML.sub("\ufffd", value) for name, value in attributes.items()}
    element = ElementTree.SubElement(parent, tag, clean)
    if content:
        element.text = _NO_XML.sub("\ufffd", content)
    return element


def _id(*of: str) -> str:
    """Return an id as RFC 7865 section 6 wants it: the 16 bytes of a UUID, in base64."""
    return base64.b64encode(uuid5(_SPACE, json.dumps(of)).bytes).decode()
