"""Recording metadata: what an archive reads is the schema of RFC 7865, and what the log tells.

The schema is read here a second time, as a table: what may stand in what, in which order, and how often.
"""

import base64
import json
import re
import uuid
from datetime import datetime
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings, strategies as st

from sfu.recorder.evidence import Chain, read_chain
from sfu.recorder.siprec import EXTENSION, NAMESPACE, account, aor, metadata, recorded

BEGAN = "2026-03-01T09:00:00.000Z"

MANY = settings(max_examples=150, deadline=None, derandomize=True, database=None)

# RFC 7865 section 9. Of each element its attributes (! is required) and its children in their order, each
# with how often it may stand there (? at most once, * any number, + once or more); or the type of its text.
TIMES = ["associate-time?", "disassociate-time?"]
SCHEMA: dict[str, tuple[list[str], list[str] | str]] = {
    "recording": (
        [],
        [
            "datamode?",
            "group*",
            "session*",
            "participant*",
            "stream*",
            "sessionrecordingassoc*",
            "participantsessionassoc*",
            "participantstreamassoc*",
        ],
    ),
    "datamode": ([], "mode"),
    "group": (["group_id!"], TIMES),
    "session": (
        ["session_id!"],
        ["sipSessionID*", "reason*", "group-ref?", "start-time?", "stop-time?"],
    ),
    "participant": (["participant_id!"], ["nameID+"]),
    "nameID": (["aor!"], ["name?"]),
    "name": ([], "text"),
    "stream": (["stream_id!", "session_id"], ["label?"]),
    "label": ([], "text"),
    "sessionrecordingassoc": (["session_id!"], TIMES),
    "participantsessionassoc": (["participant_id!", "session_id!"], TIMES),
    "participantstreamassoc": (["participant_id!"], ["send*", "recv*", *TIMES]),
    "send": ([], "id"),
    "recv": ([], "id"),
    "group-ref": ([], "id"),
    "associate-time": ([], "time"),
    "disassociate-time": ([], "time"),
    "start-time": ([], "time"),
    "stop-time": ([], "time"),
}
OFTEN = {"?": (0, 1), "*": (0, 1 << 30), "+": (1, 1 << 30)}

URI = re.compile(r"[a-z]+:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")


def is_id(value: str) -> bool:
    return len(base64.b64decode(value, validate=True)) == 16


def is_time(value: str) -> bool:
    return re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value) is not None and bool(
        datetime.fromisoformat(value)
    )


TYPES = {
    "text": lambda _value: True,
    "mode": lambda value: value in ("complete", "partial"),
    "id": is_id,
    "time": is_time,
}


def of(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def valid(document: bytes) -> ElementTree.Element:
    """Read a document, and hold every element against the schema; return its root."""
    root = ElementTree.fromstring(document)
    assert root.tag == of("recording")
    check(root)
    ids = {
        name: [found.attrib[f"{name}_id"] for found in root.findall(of(name))]
        for name in ("group", "session", "participant", "stream")
    }
    for name, found in ids.items():
        assert len(found) == len(set(found)), name
    for element in root.iter():
        for name in ("session", "participant", "stream"):
            if f"{name}_id" in element.attrib:
                assert element.attrib[f"{name}_id"] in ids[name]
    for reference, name in (("send", "stream"), ("recv", "stream"), ("group-ref", "group")):
        assert {element.text for element in root.iter(of(reference))} <= set(ids[name])
    return root


def check(element: ElementTree.Element) -> None:
    name = element.tag.removeprefix(f"{{{NAMESPACE}}}")
    attributes, children = SCHEMA[name]
    assert {a.rstrip("!") for a in attributes} >= set(element.attrib), name
    assert {a.rstrip("!") for a in attributes if a.endswith("!")} <= set(element.attrib), name
    assert all(is_id(value) for key, value in element.attrib.items() if key.endswith("_id")), name
    if name == "nameID":
        assert URI.fullmatch(element.attrib["aor"])
    if isinstance(children, str):
        assert not len(element)
        assert TYPES[children](element.text), (name, element.text)
        return
    assert not (element.text or "").strip()
    rest = list(element)
    for child in children:
        least, most = OFTEN[child[-1]]
        count = 0
        while rest and rest[0].tag == of(child[:-1]):
            check(rest.pop(0))
            count += 1
        assert least <= count <= most, (name, child, count)
    # What is left is of somebody else's (xs:any, ##other).
    assert all(each.tag.startswith(f"{{{EXTENSION}}}") for each in rest), (name, rest)


def log(*told: tuple[int, str, dict]) -> list[dict]:
    """Return events as they are read from a log: (ms, type, data) of each."""
    chain = Chain()
    lines = b"".join(chain.line(BEGAN, ms, type_, data) for ms, type_, data in told)
    events, wrong, _ = read_chain(lines)
    assert not wrong
    return events


def started(**more) -> tuple[int, str, dict]:
    about = {"recording_id": "rec_1", "call_id": "call_1", "room": "room_1", "started_at": BEGAN}
    return 0, "recording_started", about | more


def whose(name: str, kind: str = "audio") -> dict:
    return {
        "track_id": f"trk_{name}_{kind}",
        "participant_id": f"par_{name}",
        "user_id": name,
        "user_name": name.title(),
        "kind": kind,
        "source": "microphone" if kind == "audio" else "camera",
    }


def source(at: int, until: int, name: str, kind: str = "audio") -> list[tuple[int, str, dict]]:
    data = whose(name, kind)
    return [
        (at, "source_started", data),
        (until, "source_ended", {"track_id": data["track_id"], "frames": 1}),
    ]


def file(number: int, name: str, kind: str, start_ms: int, duration_ms: int | None) -> dict:
    about = {"name": f"{number:04}-{kind}.mkv", "start_ms": start_ms, "duration_ms": duration_ms}
    return about | whose(name, kind) | {"codec": "vp8", "sha256": "ab" * 32, "bytes": 7}


def manifest(duration_ms: int = 60_000, files=(), pauses=(), **more) -> dict:
    about = {"recording_id": "rec_1", "call_id": "call_1", "room": "room_1", "started_at": BEGAN}
    told = {
        "duration_ms": duration_ms,
        "files": list(files),
        "pauses": list(pauses),
        "end_reason": "call_ended",
    }
    return about | told | more


def sorted_log(*told: tuple[int, str, dict]) -> list[dict]:
    return log(*sorted(told, key=lambda each: each[0]))


def texts(root: ElementTree.Element, path: str) -> list[str | None]:
    return [element.text for element in root.findall("/".join(of(step) for step in path.split("/")))]


def id_of(*what: str) -> str:
    """An id, made as RFC 4122 section 4.3 tells."""
    space = uuid.UUID("e85ae712-ee1f-4485-8e12-fadd8079233d")
    return base64.b64encode(uuid.uuid5(space, json.dumps(what)).bytes).decode()


def associations(root: ElementTree.Element, name: str) -> set[tuple[str | None, ...]]:
    """Return what of an association matters: who, how, which stream, from, to (as minutes and seconds)."""
    people = {id_of("participant", f"par_{who}"): who for who in ("ada", "bob", "eve")}
    streams = {
        id_of("stream", f"trk_{who}_{kind}"): f"{who} {kind}"
        for who in ("ada", "bob", "eve")
        for kind in ("audio", "video")
    }
    found = set()
    for element in root.findall(of(name)):
        times = [
            (element.findtext(of(time)) or "")[14:19] for time in ("associate-time", "disassociate-time")
        ]
        hows = [
            (how, streams[stream.text]) for how in ("send", "recv") for stream in element.findall(of(how))
        ]
        who = people.get(element.attrib.get("participant_id"))
        found |= {(who, *how, *times) for how in hows or [()]}
    return found


# A call


def test_a_call_is_told_as_it_was():
    """Golden: of one person with one track, every byte."""
    events = sorted_log(started(), *source(1_000, 59_000, "ada"))
    files = [file(1, "ada", "audio", 1_020, 57_900)]
    about = (
        'recording_id="rec_1" call_id="call_1" room="room_1" end_reason="call_ended"',
        'name="0001-audio.mkv" kind="audio" source="microphone" codec="vp8"',
        f'sha256="{"ab" * 32}" start_ms="1020" duration_ms="57900" bytes="7"',
    )
    assert (
        metadata(manifest(files=files), events, "rec_1").decode()
        == f"""\
<?xml version="1.0" encoding="UTF-8"?>
<recording xmlns="urn:ietf:params:xml:ns:recording:1">
  <datamode>complete</datamode>
  <group group_id="{id_of("group", "room_1")}">
    <associate-time>2026-03-01T09:00:00.000Z</associate-time>
    <disassociate-time>2026-03-01T09:01:00.000Z</disassociate-time>
  </group>
  <session session_id="{id_of("session", "call_1")}">
    <group-ref>{id_of("group", "room_1")}</group-ref>
    <start-time>2026-03-01T09:00:00.000Z</start-time>
    <stop-time>2026-03-01T09:01:00.000Z</stop-time>
  </session>
  <participant participant_id="{id_of("participant", "par_ada")}">
    <nameID aor="sip:ada@sfu.invalid">
      <name>Ada</name>
    </nameID>
  </participant>
  <stream stream_id="{id_of("stream", "trk_ada_audio")}" session_id="{id_of("session", "call_1")}">
    <label>trk_ada_audio</label>
    <file xmlns="urn:sfu:recording:1" {about[1]} {about[2]} />
  </stream>
  <sessionrecordingassoc session_id="{id_of("session", "call_1")}">
    <associate-time>2026-03-01T09:00:00.000Z</associate-time>
    <disassociate-time>2026-03-01T09:01:00.000Z</disassociate-time>
  </sessionrecordingassoc>
  <participantsessionassoc participant_id="{id_of("participant", "par_ada")}" \
session_id="{id_of("session", "call_1")}">
    <associate-time>2026-03-01T09:00:00.000Z</associate-time>
    <disassociate-time>2026-03-01T09:01:00.000Z</disassociate-time>
  </participantsessionassoc>
  <participantstreamassoc participant_id="{id_of("participant", "par_ada")}">
    <send>{id_of("stream", "trk_ada_audio")}</send>
    <associate-time>2026-03-01T09:00:01.000Z</associate-time>
    <disassociate-time>2026-03-01T09:00:59.000Z</disassociate-time>
  </participantstreamassoc>
  <about xmlns="urn:sfu:recording:1" {about[0]} />
</recording>
"""
    )


def test_ids_stay_what_they_are():
    """Archives refer to them: another version makes the same."""
    assert id_of("session", "call_1") == "cGs5IeqpXrSSgp93Td61ew=="
    root = valid(metadata(manifest(), log(started()), "rec_1"))
    assert [session.attrib for session in root.findall(of("session"))] == [
        {"session_id": "cGs5IeqpXrSSgp93Td61ew=="}
    ]


def test_two_recordings_of_a_call_are_of_one_session():
    """The session is the call, whatever was recorded of it."""
    one, two = (
        valid(metadata(manifest(recording_id=id_), log(started(recording_id=id_)), id_))
        for id_ in ("rec_1", "rec_2")
    )
    for name in ("group", "session"):
        assert one.find(of(name)).attrib == two.find(of(name)).attrib
    about = [root.find(f"{{{EXTENSION}}}about").attrib["recording_id"] for root in (one, two)]
    assert about == ["rec_1", "rec_2"]


def test_who_sends_is_heard_by_who_is_there():
    """From when both are there until one of them is not, or the track ends."""
    joined = {"participant_id": "par_bob", "user_id": "bob", "name": "Bob", "tracks": []}
    events = sorted_log(
        started(),
        *source(0, 50_000, "ada", "video"),
        (10_000, "participant_joined", {"participant": joined}),
        *source(12_000, 40_000, "bob"),
        (40_000, "participant_left", {"participant_id": "par_bob"}),
        (50_000, "participant_left", {"participant_id": "par_ada"}),
    )
    root = valid(metadata(manifest(), events, "rec_1"))
    assert associations(root, "participantsessionassoc") == {
        ("ada", "00:00", "00:50"),
        ("bob", "00:10", "00:40"),
    }
    assert associations(root, "participantstreamassoc") == {
        ("ada", "send", "ada video", "00:00", "00:50"),
        ("bob", "recv", "ada video", "00:10", "00:40"),
        ("bob", "send", "bob audio", "00:12", "00:40"),
        ("ada", "recv", "bob audio", "00:12", "00:40"),
    }


def test_who_comes_back_was_there_twice():
    """And heard what was sent meanwhile in neither."""
    bob = {"participant": {"participant_id": "par_bob", "user_id": "bob", "name": "Bob"}}
    went = {"participant_id": "par_bob"}
    events = sorted_log(
        started(),
        *source(0, 60_000, "ada"),
        (5_000, "participant_left", went),
        (20_000, "participant_joined", bob),
        (30_000, "participant_left", went),
        (45_000, "participant_joined", bob),
    )
    root = valid(metadata(manifest(), events, "rec_1"))
    spans = {("00:00", "00:05"), ("00:20", "00:30"), ("00:45", "01:00")}
    assert associations(root, "participantsessionassoc") == {
        ("ada", "00:00", "01:00"),
        *(("bob", *span) for span in spans),
    }
    assert {each for each in associations(root, "participantstreamassoc") if each[0] == "bob"} == {
        ("bob", "recv", "ada audio", *span) for span in spans
    }
    assert texts(root, "participant/nameID/name") == ["Ada", "Bob"]


def test_who_went_before_hears_nothing():
    events = sorted_log(
        started(),
        *source(1_000, 4_000, "bob"),
        (5_000, "participant_left", {"participant_id": "par_bob"}),
        *source(20_000, 60_000, "ada"),
    )
    root = valid(metadata(manifest(), events, "rec_1"))
    assert associations(root, "participantstreamassoc") == {
        ("bob", "send", "bob audio", "00:01", "00:04"),
        ("ada", "recv", "bob audio", "00:01", "00:04"),
        ("ada", "send", "ada audio", "00:20", "01:00"),
    }


def test_nobody_goes_before_he_came():
    """A log whose times go back is none of ours; who is in it was there for no time."""
    bob = {"participant": {"participant_id": "par_bob"}}
    events = log(
        started(),
        (9_000, "participant_joined", bob),
        (4_000, "participant_left", {"participant_id": "par_bob"}),
    )
    root = valid(metadata(manifest(), events, "rec_1"))
    assert associations(root, "participantsessionassoc") == {("bob", "00:09", "00:09")}


def test_a_track_of_several_sources_is_one_stream():
    """Another layer, another codec: a new file, the same track."""
    events = sorted_log(
        started(), *source(2_000, 20_000, "ada", "video"), *source(21_000, 50_000, "ada", "video")
    )
    files = [file(1, "ada", "video", 2_100, 17_000), file(2, "ada", "video", 21_100, 28_000)]
    root = valid(metadata(manifest(files=files), events, "rec_1"))
    (stream,) = root.findall(of("stream"))
    names = [each.attrib["name"] for each in stream.findall(f"{{{EXTENSION}}}file")]
    assert names == ["0001-video.mkv", "0002-video.mkv"]
    assert associations(root, "participantstreamassoc") == {("ada", "send", "ada video", "00:02", "00:50")}


def test_a_source_that_a_crash_cut_off_ends_with_the_log():
    events = log(started(), source(1_000, 2_000, "ada")[0], (30_000, "checkpoint", {"files": {}}))
    files = [file(1, "ada", "audio", 1_000, None)]
    root = valid(metadata(manifest(30_000, files), events, "rec_1"))
    assert associations(root, "participantstreamassoc") == {("ada", "send", "ada audio", "00:01", "00:30")}


def test_a_log_that_is_gone_leaves_what_the_manifest_tells():
    files = [file(1, "ada", "audio", 5_000, 20_000), file(2, "bob", "video", 9_000, 10_000)]
    root = valid(metadata(manifest(files=files), [], "rec_1"))
    assert associations(root, "participantstreamassoc") == {
        ("ada", "send", "ada audio", "00:05", "00:25"),
        ("bob", "recv", "ada audio", "00:05", "00:25"),
        ("bob", "send", "bob video", "00:09", "00:19"),
        ("ada", "recv", "bob video", "00:09", "00:19"),
    }


def test_a_manifest_that_is_gone_leaves_what_the_log_tells():
    """Times too: when it began stands in the first event."""
    events = sorted_log(started(), *source(1_000, 9_000, "ada"))
    root = valid(metadata({}, events, "rec_1"))
    assert associations(root, "participantstreamassoc") == {("ada", "send", "ada audio", "00:01", "00:09")}
    assert root.find(of("session")).attrib == {"session_id": id_of("session", "rec_1")}


def test_of_nothing_there_is_a_document_too():
    root = valid(metadata({}, [], "rec_1"))
    assert texts(root, "datamode") == ["complete"]
    assert not list(root.iter(of("associate-time")))


@pytest.mark.parametrize(
    "began", ["2026-03-01T10:00:00.000+01:00", "2026-03-01T09:00:00Z", "2026-03-01T09:00Z"]
)
def test_times_are_told_in_utc(began):
    root = valid(metadata(manifest(started_at=began), [], "rec_1"))
    assert texts(root, "session/start-time") == [BEGAN]


@pytest.mark.parametrize(
    "began",
    ["", "yesterday", "2026-03-01T09:00:00", "9999-12-31T23:59:59.999Z", "0001-01-01T00:00:00+23:59", 7],
)
def test_a_time_that_is_none_is_left_out(began):
    """Or one whose end is beyond all calendars."""
    root = valid(metadata(manifest(started_at=began), [], "rec_1"))
    assert texts(root, "session/stop-time") == []


# Pauses


@pytest.mark.parametrize(
    ("pauses", "expected"),
    [
        ([], [(0, 60)]),
        ([(10, 20)], [(0, 10), (20, 60)]),
        ([(0, 20)], [(20, 60)]),
        ([(50, None)], [(0, 50)]),
        ([(50, 60)], [(0, 50)]),
        ([(10, 20), (20, 30), (40, 41)], [(0, 10), (30, 40), (41, 60)]),
        ([(10, 30), (20, 25)], [(0, 10), (30, 60)]),
        ([(0, None)], []),
        ([(70, 80)], [(0, 60)]),
        ([(10, 5)], [(0, 10), (10, 60)]),
    ],
)
def test_what_was_paused_was_not_recorded(pauses, expected):
    """The session is associated with the recording before and after."""
    told = [
        {"from_ms": begins * 1000, "to_ms": None if ends is None else ends * 1000, "reason": "card"}
        for begins, ends in pauses
    ]
    spans = recorded(manifest(pauses=told), 60_000)
    assert [(begins / 1000, ends / 1000) for begins, ends in spans] == expected
    root = valid(metadata(manifest(pauses=told), [], "rec_1"))
    assert len(root.findall(of("sessionrecordingassoc"))) == len(expected)


# Who


@pytest.mark.parametrize(
    ("user_id", "expected"),
    [
        ("", "sip:anonymous@anonymous.invalid"),
        ("ada", "sip:ada@sfu.invalid"),
        ("42", "sip:42@sfu.invalid"),
        ("ada@example.com", "sip:ada@example.com"),
        ("sip:ada@example.com", "sip:ada@example.com"),
        ("sips:ada@example.com;transport=tls", "sips:ada@example.com;transport=tls"),
        ("tel:+4930123456", "tel:+4930123456"),
        ("https://id.example/ada", "sip:https%3A%2F%2Fid.example%2Fada@sfu.invalid"),
        ("Жанна", "sip:%D0%96%D0%B0%D0%BD%D0%BD%D0%B0@sfu.invalid"),
        ('"><script>', "sip:%22%3E%3Cscript%3E@sfu.invalid"),
        ("javascript:alert(1)", "sip:javascript%3Aalert(1)@sfu.invalid"),
        ("sip:ada@example.com\n", "sip:sip%3Aada%40example.com%0A@sfu.invalid"),
        ("a@b@c", "sip:a%40b%40c@sfu.invalid"),
        ("\ud800", "sip:%3F@sfu.invalid"),
    ],
)
def test_everybody_has_an_address(user_id, expected):
    """An address of record (RFC 3261 section 6) is a URI, whatever the user's id is."""
    assert aor(user_id) == expected
    assert URI.fullmatch(expected)


HOSTILE = [
    "</name>",
    "<![CDATA[",
    "]]>",
    "&lt;",
    '"',
    "'",
    "&",
    "\x00\x1b[31m",
    "\ud800",
    "\ufffe",
    "a\r\nb",
    "\u202e",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_text_and_nothing_else(text):
    """Of which what XML cannot hold is told to be missing."""
    hostile = dict.fromkeys(("track_id", "participant_id", "user_id", "user_name", "source", "kind"), text)
    files = [file(1, "ada", "audio", 0, 1_000) | hostile]
    events = log(started(), (0, "source_started", whose("bob") | {"user_name": text.replace("\ud800", "?")}))
    told = manifest(files=files, call_id=text, room=text, end_reason=text)
    root = valid(metadata(told, events, "rec_1"))
    cleaned = re.sub("[\x00\x1b\r\ud800\ufffe]", "\ufffd", text)
    assert texts(root, "stream/label") == ["trk_bob_audio", cleaned]
    assert texts(root, "participant/nameID/name")[1] == cleaned
    about = root.find(f"{{{EXTENSION}}}about").attrib
    assert {about[name] for name in ("call_id", "room", "end_reason")} == {cleaned}


def test_those_who_differ_in_what_xml_cannot_hold_are_two():
    files = [file(1, name, "audio", 0, 1_000) for name in ("a\x00", "a\x01", "a\ufffd")]
    root = valid(metadata(manifest(files=files), [], "rec_1"))
    assert len(root.findall(of("participant"))) == len(root.findall(of("stream"))) == 3


NAMES = [
    *(
        "participant_id",
        "track_id",
        "user_id",
        "user_name",
        "name",
        "participant",
        "started_at",
        "duration_ms",
    ),
    *("start_ms", "from_ms", "to_ms", "files", "pauses", "call_id", "room", "kind", "source"),
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.sampled_from(["", "par_1", "trk_1", BEGAN, "x\x00\ud800", "0001.mkv"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=12,
)
DATA = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=8)
KINDS = ("participant_joined", "participant_left", "source_started", "source_ended", "recording_started", "x")


@st.composite
def any_events(draw) -> list[dict]:
    """Events as `read_chain` may give them: their form is right, their data anything."""
    told = draw(st.lists(st.tuples(st.integers(-5, 1 << 60), st.sampled_from(KINDS), DATA), max_size=8))
    return [
        {"n": n, "at": "", "t_ms": t_ms, "type": kind, "data": data, "prev": ""}
        for n, (t_ms, kind, data) in enumerate(told)
    ]


@MANY
@given(told=DATA, events=any_events())
def test_whatever_a_manifest_and_a_log_hold_the_document_is_valid(told, events):
    valid(metadata(told, events, "rec_1"))


@MANY
@given(told=DATA, events=any_events())
def test_whatever_they_hold_nobody_is_there_outside_the_recording(told, events):
    found = account(told, events)
    for participant in found.participants.values():
        assert participant.since is None
        assert all(0 <= since <= until <= found.duration_ms for since, until in participant.spans)
    for stream in found.streams.values():
        assert 0 <= stream.span[0] <= stream.span[1] <= found.duration_ms
        assert stream.participant_id in found.participants
