"""What once broke a recorder: frames without headers, full disks, damaged folders, datagrams of nobody.

What could end the process, as a muxer that is touched after a failure can, is tried in one of its own.
"""

import errno
import fcntl
import json
import os
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from itertools import count
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sfu.media.packet import build
from sfu.recorder import evidence
from sfu.recorder.channel import pack_media, pack_message, unpack
from sfu.recorder.depacketize import Frame
from sfu.recorder.evidence import EVENTS, FORMAT, MANIFEST, SIGNATURE, Chain, canonical, read_chain, verify
from sfu.recorder.recording import LAST_SEALED, Recording, seal_unsealed
from sfu.recorder.source import About, Format, Source
from tests.unit.recorder.encoded import FORMATS, Sender, pictures, play, sounds

REPOSITORY = Path(__file__).parents[3]

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = KEY.public_key()

VP8, H264, OPUS = pictures("vp8"), pictures("h264"), sounds()
VIDEO, AUDIO = "0001-video-vp8.mkv", "0002-audio-opus.mka"

KNOWN = FORMATS | {45: Format("av1", 90_000, 1)}


def alone(program: str, *arguments: str) -> dict:
    """Run a program in a process of its own; return what it printed. A crash of it fails the test."""
    done = subprocess.run(
        [sys.executable, "-c", _HEAD + program, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


_HEAD = """
import errno, json, os, sys
from pathlib import Path
from sfu.recorder.depacketize import Frame
from tests.unit.recorder import test_faults as faults

write, calls = os.write, 0

def full_from(number):
    "Let the disk take nothing from so many writes on."
    def counted(descriptor, data):
        global calls
        calls += 1
        if calls >= number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)
    os.write = counted

def tried(act, *arguments):
    try:
        act(*arguments)
    except (OSError, ValueError) as error:
        return "OSError" if isinstance(error, OSError) else "ValueError"
    return ""
"""


class Bench:
    """A source, and what it told."""

    def __init__(self, folder: Path, kind: str = "video") -> None:
        self.folder, self.told, self.wanted = folder, [], 0
        numbers = count(1)
        self.source = Source(
            folder,
            About(1, kind, "track_1", "alice_1", "alice", "Алиса", "camera", "", 7),
            KNOWN,
            lambda kind, codec: f"{next(numbers)}-{kind}-{codec}",
            lambda type_, data: self.told.append((type_, dict(data))),
            self._want,
        )

    def _want(self) -> None:
        self.wanted += 1

    def send(self, sender: Sender, frames) -> None:
        for frame in frames:
            for packet in sender.send(frame):
                self.source.receive(packet, 0, 0.0)

    def of(self, type_: str) -> list[dict]:
        return [data for name, data in self.told if name == type_]

    def files(self) -> list:
        return [play(path.read_bytes()) for path in sorted(self.folder.iterdir())]


def units(frame: Frame) -> list[bytes]:
    """The NAL units of an H264 frame."""
    return [unit for unit in frame.data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if unit]


def without_headers(frame: Frame) -> Frame:
    slices = [unit for unit in units(frame) if unit[0] & 0x1F == 5]
    assert slices
    return Frame(b"".join(b"\0\0\0\1" + unit for unit in slices), frame.timestamp, frame.is_key)


def later(frames, ticks: int) -> list[Frame]:
    return [Frame(frame.data, frame.timestamp + ticks, frame.is_key) for frame in frames]


# A file that cannot begin

HEADLESS = """
bench = faults.Bench(Path(sys.argv[1]))
sender = faults.Sender(102)
first = int(sys.argv[2])
bench.send(sender, [faults.without_headers(faults.H264[0]), *faults.H264[1:first]])
files = len(list(bench.folder.iterdir()))
bench.send(sender, faults.H264[first:])
bench.source.end()
print(json.dumps([files, bench.wanted, bench.told]))
"""


def test_a_keyframe_without_its_headers_begins_no_file(tmp_path):
    """The next one that has them does."""
    keys = [number for number, frame in enumerate(H264) if frame.is_key]
    first = keys[1]
    files, wanted, told = alone(HEADLESS, str(tmp_path), str(first))
    assert (files, wanted) == (0, first)
    types = [type_ for type_, _ in told]
    assert types == ["segment_started", "loss", "segment_ended"]
    assert told[1][1]["frames_before_keyframe"] == first
    ((path,),) = [list(tmp_path.iterdir())]
    played = play(path.read_bytes())
    assert played.decoded == len(played.packets) == len(H264) - first
    assert told[0][1]["size"] == [64, 48]


AV1_GARBAGE = """
bench = faults.Bench(Path(sys.argv[1]))
for number, payload in enumerate(faults.AV1_PAYLOADS):
    packet = faults.build(45, number, 3000 * number, 7, payload, marker=1)
    bench.source.receive(packet, 0, 0.0)
bench.source.end()
print(json.dumps([len(list(bench.folder.iterdir())), bench.wanted, bench.told]))
"""

# N of the aggregation header says that a coded video sequence begins; it does not.
AV1_PAYLOADS = [
    b"\x18garbage",
    b"\x18\x0a",
    b"\x18\x0a\x01",
    b"\x18\x0a\xff\xff\xff",
    b"\x18\x0a\x0b\0\0\0",
    b"\x18\x32" + bytes(200),
    b"\x18" + b"\xff" * 200,
    b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x10\x0e\0",
]


def test_garbage_instead_of_a_picture_begins_no_file_or_a_broken_one(tmp_path):
    """The process lives, and no frame is taken for one."""
    _, wanted, told = alone(AV1_GARBAGE, str(tmp_path))
    begun = sum(type_ == "segment_started" for type_, _ in told)
    ended = [data for type_, data in told if type_ == "segment_ended"]
    assert begun == len(ended)
    assert {data["frames"] for data in ended} <= {0}
    assert wanted + begun > 0


@pytest.mark.parametrize("codec", ["vp8", "h264", "av1"])
def test_a_picture_after_garbage_is_recorded(tmp_path, codec):
    """A source is not lost for what came first."""
    bench, frame = Bench(tmp_path), pictures(codec)[0]
    payload_type = {"vp8": 96, "h264": 102, "av1": 45}[codec]
    for sequence in range(3):
        packet = build(payload_type, sequence, 0, 7, b"\x18\x65" + bytes(30), marker=1)
        bench.source.receive(packet, 0, 0.0)
    if codec == "av1":
        # The sequence header and the picture as the one element of a packet, with its length before it.
        data = frame.data.removeprefix(b"\x12\0")
        assert 1 << 7 <= len(data) < 1 << 14
        size = bytes((len(data) & 0x7F | 0x80, len(data) >> 7))
        bench.source.receive(build(45, 3, 3000, 7, b"\x08" + size + data, marker=1), 0, 0.0)
    else:
        bench.send(Sender(payload_type, 3, 3000), [frame])
    assert bench.source.frames == 1
    bench.source.end()
    assert bench.of("segment_ended")[-1]["frames"] == 1


# A disk that is full

FULL = """
codec, number = sys.argv[2], int(sys.argv[3])
sound = codec == "opus"
frames = {"opus": faults.OPUS, "vp8": faults.VP8, "h264": faults.H264}[codec]
full_from(number)
path = Path(sys.argv[1]) / "a.mkv"
from sfu.recorder.segment import Segment
segment = Segment(path, codec, 48_000 if sound else 90_000, 2, None if sound else (64, 48))
told, at = [], 0
while len(told) < int(sys.argv[4]) and at < len(frames):
    found = tried(segment.write, frames[at])
    at += 1
    if found or told:
        told.append(found)
closed = tried(segment.close), tried(segment.close)
digest, size = segment.snapshot()
print(json.dumps([told, closed, segment.is_open, size, digest]))
"""


@pytest.mark.parametrize(("codec", "writes"), [("vp8", 1), ("vp8", 4), ("h264", 3), ("opus", 2)])
def test_a_header_that_does_not_fit_is_an_error_and_no_crash(tmp_path, codec, writes):
    """It is written no more then, however often it is tried; the file can be ended."""
    told, closed, is_open, size, digest = alone(FULL, str(tmp_path), codec, "1", str(writes))
    assert told[0] == "OSError"
    assert set(told[1:]) <= {"OSError", "ValueError"}
    assert set(told[2:]) <= {"ValueError"}
    assert len(told) == writes
    assert (closed[1], is_open, size) == ("", False, 0)
    assert digest == sha256().hexdigest()
    assert (tmp_path / "a.mkv").read_bytes() == b""


@pytest.mark.parametrize(("number", "writes"), [(2, 1), (3, 4)])
def test_a_cluster_that_does_not_fit_is_an_error_and_no_crash(tmp_path, number, writes):
    """What is on the disk stays, and its hash is known."""
    told, closed, is_open, size, digest = alone(FULL, str(tmp_path), "vp8", str(number), str(writes))
    assert told[0] == "OSError"
    assert set(told[2:]) <= {"ValueError"}
    assert len(told) == writes
    assert (closed[1], is_open) == ("", False)
    data = (tmp_path / "a.mkv").read_bytes()
    assert (len(data), sha256(data).hexdigest()) == (size, digest)
    assert size > 0


ABANDON = """
root = Path(sys.argv[1])
recording = faults.begin(root)
full = []
def write_some(descriptor, data):
    name = os.readlink(f"/proc/self/fd/{descriptor}")
    if name.endswith("-vp8.mkv") and full:
        raise OSError(errno.ENOSPC, "No space left on device")
    return write(descriptor, data)
os.write = write_some
if sys.argv[2] == "header":
    full.append(True)
found = []
for at, packets in faults.talk():
    if at > 700:
        full.append(True)
    for number, packet in packets:
        found.append(tried(recording.media, number, packet, round(at * 1000), at / 1000))
left = [tried(recording.abandon), tried(recording.abandon)]
opened = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
print(json.dumps([sorted(set(found)), left, [name for name in opened if name.startswith(str(root))]]))
"""


@pytest.mark.parametrize("moment", ["header", "cluster"])
def test_a_broken_file_does_not_keep_others_open(tmp_path, moment):
    """All are let go, and so is the log; what is there is sealed later."""
    found, left, still_open = alone(ABANDON, str(tmp_path), moment)
    assert "OSError" in found
    assert (left, still_open) == (["", ""], [])
    (manifest,) = seal_unsealed(tmp_path, KEY)
    assert (manifest["end_reason"], manifest["damage"]) == ("crash", [])
    assert verify(tmp_path / "rec_1", TRUSTED).problems == ()
    assert play((tmp_path / "rec_1" / AUDIO).read_bytes()).decoded == len(OPUS)


# One recording


def about(recording_id: str) -> dict:
    return {
        "recording_id": recording_id,
        "call_id": "call_1",
        "room": "r",
        "started_at": "2024-05-01T12:00:00.000Z",
    }


def source(kind: str) -> dict:
    return {
        "kind": kind,
        "track_id": f"trk_{kind}",
        "participant_id": "par_1",
        "user_id": "alice",
        "user_name": "Alice",
        "source": "camera" if kind == "video" else "microphone",
        "rid": "",
        "ssrc": 7,
    }


def begin(root: Path, recording_id: str = "rec_1") -> Recording:
    """Begin a recording of a picture and a sound."""
    recording = Recording(root / recording_id, about(recording_id), KEY, lambda number: None)
    told = {str(pt): [each.name, each.clock_rate, each.channels] for pt, each in FORMATS.items()}
    recording.add_source(1, source("video"), told)
    recording.add_source(2, source("audio"), told)
    return recording


def talk() -> list[tuple[float, list[tuple[int, bytes]]]]:
    """(millisecond, packets as (source, packet)) of two seconds, in order."""
    senders = {1: Sender(96), 2: Sender(111)}
    steps = [(frame.timestamp / 90, 1, frame) for frame in VP8]
    steps += [(frame.timestamp / 48, 2, frame) for frame in OPUS]
    return [
        (at_ms, [(number, packet) for packet in senders[number].send(frame)])
        for at_ms, number, frame in sorted(steps, key=lambda step: step[:2])
    ]


def give(recording: Recording) -> None:
    for at_ms, packets in talk():
        for number, packet in packets:
            recording.media(number, packet, round(at_ms * 1000), at_ms / 1000)


def leave(root: Path, recording_id: str) -> Path:
    """Write a recording that nobody sealed."""
    recording = begin(root, recording_id)
    give(recording)
    recording.abandon()
    return recording.folder


def right(folder: Path) -> None:
    assert verify(folder, TRUSTED).problems == ()


def full(*_) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("moment", ["files", "log", "signature", "manifest", "last"])
def test_a_seal_that_does_not_fit_is_made_later(tmp_path, monkeypatch, moment):
    """Whatever it was that did not fit; nothing is raised when it is let go."""
    recording = begin(tmp_path)
    give(recording)
    with monkeypatch.context() as patched:
        if moment == "files":
            patched.setattr(os, "write", full)
        elif moment == "log":
            patched.setattr(os, "fsync", full)
        else:
            replace, name = (
                Path.replace,
                {"signature": SIGNATURE, "manifest": MANIFEST, "last": LAST_SEALED}[moment],
            )
            patched.setattr(
                Path, "replace", lambda path, to: full() if Path(to).name == name else replace(path, to)
            )
        with pytest.raises(OSError):
            recording.close("call_ended", {}, 2000)
        recording.abandon()
        recording.abandon()
    found = seal_unsealed(tmp_path, KEY)
    # What has its manifest is sealed.
    assert [manifest["recording_id"] for manifest in found] == ([] if moment == "last" else ["rec_1"])
    assert verify(tmp_path / "rec_1", TRUSTED).end_reason == ("crash" if moment == "files" else "call_ended")
    right(tmp_path / "rec_1")


# Several that were left


def rewrite(folder: Path, change) -> None:
    """Change the log's events, and chain them anew."""
    events, _, _ = read_chain((folder / EVENTS).read_bytes())
    chain = Chain()
    lines = [chain.line(e["at"], e["t_ms"], e["type"], change(e["type"], e["data"])) for e in events]
    (folder / EVENTS).write_bytes(b"".join(lines))


def damage(folder: Path, kind: str) -> None:
    if kind == "no file name":
        rewrite(folder, lambda type_, data: {} if type_ == "segment_started" else data)
    elif kind == "a file name of another kind":
        rewrite(folder, lambda type_, data: data | {"file": [1]} if type_ == "segment_started" else data)
    elif kind == "a file name that is none":
        rewrite(folder, lambda type_, data: data | {"file": "a\0b"} if type_ == "segment_started" else data)
    elif kind == "a size of another kind":
        log, chain = (folder / EVENTS).read_bytes(), Chain()
        chain.head, chain.lines = sha256(log.splitlines()[-1]).hexdigest(), log.count(b"\n")
        ended = {"file": VIDEO, "sha256": "", "bytes": "x"}
        (folder / EVENTS).write_bytes(log + chain.line("x", 0, "segment_ended", ended))
    elif kind == "a folder":
        (folder / VIDEO).unlink()
        (folder / VIDEO).mkdir()
    else:
        (folder / MANIFEST).symlink_to(folder / "nowhere")
        (folder / SIGNATURE).mkdir()


@pytest.mark.parametrize(
    "kind",
    [
        "no file name",
        "a file name of another kind",
        "a file name that is none",
        "a size of another kind",
        "a folder",
        "a folder in place of the signature",
    ],
)
def test_one_that_cannot_be_sealed_does_not_keep_the_others(tmp_path, kind):
    """It stays as it is."""
    folders = [leave(tmp_path, f"rec_{number}") for number in (1, 2, 3)]
    damage(folders[1], kind)
    log = (folders[1] / EVENTS).read_bytes()
    found = seal_unsealed(tmp_path, KEY)
    assert [manifest["recording_id"] for manifest in found] == ["rec_1", "rec_3"]
    for folder in (folders[0], folders[2]):
        right(folder)
    assert verify(folders[1], TRUSTED).problems
    assert (folders[1] / EVENTS).read_bytes() == log
    assert not (folders[1] / MANIFEST).exists()


def test_what_is_still_written_is_left_alone(tmp_path):
    """Until its writer lets it go, in whichever process."""
    recording = begin(tmp_path, "rec_1")
    give(recording)
    leave(tmp_path, "rec_2")
    log = (tmp_path / "rec_1" / EVENTS).read_bytes()
    assert [manifest["recording_id"] for manifest in seal_unsealed(tmp_path, KEY)] == ["rec_2"]
    assert (tmp_path / "rec_1" / EVENTS).read_bytes() == log
    assert not (tmp_path / "rec_1" / MANIFEST).exists()
    recording.close("call_ended", {}, 2000)
    right(tmp_path / "rec_1")
    assert verify(tmp_path / "rec_1").end_reason == "call_ended"


HOLD = """
recording = faults.begin(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
os._exit(0)
"""


def test_what_another_process_writes_is_sealed_when_that_is_gone(tmp_path):
    """Nothing but its end gives it free."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HEAD + HOLD, str(tmp_path)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        assert seal_unsealed(tmp_path, KEY) == []
        process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    (manifest,) = seal_unsealed(tmp_path, KEY)
    assert manifest["end_reason"] == "crash"
    right(tmp_path / "rec_1")


def test_a_lock_is_not_kept_by_who_seals(tmp_path):
    folder = leave(tmp_path, "rec_1")
    seal_unsealed(tmp_path, KEY)
    with (folder / EVENTS).open("rb") as log:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    "content",
    [
        *(b"[]", b"null", b"7", b'"text"', b"{}", b'[{"recording_id":"a","manifest_sha256":"b"}]'),
        *(b'{"recording_id":"a"}', b'{"manifest_sha256":"b"}'),
    ],
)
def test_a_name_of_the_one_before_in_another_shape_is_none(tmp_path, content):
    (tmp_path / LAST_SEALED).write_bytes(content)
    leave(tmp_path, "rec_1")
    (manifest,) = seal_unsealed(tmp_path, KEY)
    assert manifest["previous"] is None
    right(tmp_path / "rec_1")
    assert json.loads((tmp_path / LAST_SEALED).read_bytes())["recording_id"] == "rec_1"


# The check


def sealed_with(folder: Path, raw: bytes) -> Path:
    """A folder with a manifest that is signed, whatever it says."""
    folder.mkdir()
    (folder / EVENTS).write_bytes(b"")
    (folder / MANIFEST).write_bytes(raw)
    (folder / SIGNATURE).write_bytes(evidence.sign(raw, KEY))
    return folder


def told_of(files: list[dict]) -> dict:
    log = {"lines": 0, "head": evidence.NOTHING, "sha256": sha256().hexdigest(), "bytes": 0}
    return {
        "format": FORMAT,
        "recording_id": "rec_1",
        "end_reason": "call_ended",
        "files": files,
        "events": log,
    }


@pytest.mark.parametrize(
    "name", ["a\0b", "a" * 300, "..", ".", "", "/", "a/b", "a\nb", "ä", "a" * 5000, "-rf", "a\n"]
)
def test_a_name_that_no_file_has_is_reported(tmp_path, name):
    manifest = told_of([{"name": name, "sha256": "0" * 64, "bytes": 1}])
    problems = verify(sealed_with(tmp_path / "rec_1", canonical(manifest)), TRUSTED).problems
    assert (name, "it is no file of the folder") in [(problem.file, problem.what) for problem in problems]


@pytest.mark.parametrize("surrogate", [r"\ud800", r"a\udfffb", r"\udcff"])
def test_a_name_that_is_no_unicode_is_reported(tmp_path, surrogate):
    raw = canonical(told_of([{"name": "NAME", "sha256": "0" * 64, "bytes": 1}]))
    folder = sealed_with(tmp_path / "rec_1", raw.replace(b"NAME", surrogate.encode()))
    name = json.loads(f'"{surrogate}"')
    assert name in {problem.file for problem in verify(folder, TRUSTED).problems}


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"NaN", b'"x"', b"null", b"[]", b"9" * 5000])
@pytest.mark.parametrize("where", ["file", "log", "lines"])
def test_a_number_that_is_none_is_reported(tmp_path, number, where):
    manifest = told_of([{"name": "a.mkv", "sha256": "0" * 64, "bytes": "HERE" if where == "file" else 1}])
    if where != "file":
        manifest["events"]["bytes" if where == "log" else "lines"] = "HERE"
    folder = sealed_with(tmp_path / "rec_1", canonical(manifest).replace(b'"HERE"', number))
    assert MANIFEST in {problem.file for problem in verify(folder, TRUSTED).problems}


@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "\udcffb", "ok \ud83d", "\ud83d\ude00"])
def test_a_line_of_what_is_no_unicode_is_right_when_it_is_read(text):
    """And those behind it follow."""
    chain = Chain()
    log = chain.line("x", 0, "participant_joined", {"name": text, text: [text, {"in": text}]})
    log += chain.line("x", 1, "participant_left", {})
    events, wrong, head = read_chain(log)
    assert (wrong, head, len(events)) == ([], chain.head, 2)
    assert "?" in events[0]["data"]["name"]


def test_a_recording_of_somebody_whose_name_is_no_unicode_is_right(tmp_path):
    recording = Recording(tmp_path / "rec_1", about("rec_1") | {"by": "\ud800"}, KEY, lambda number: None)
    recording.event("participant_joined", {"name": "\udfff"})
    recording.close("call_ended", {}, 1000)
    right(tmp_path / "rec_1")


# Datagrams


def json_record(body: bytes) -> bytes:
    return (1 + len(body)).to_bytes(4, "big") + b"\1" + body


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"\0\0\0\1\0", id="media of nothing"),
        pytest.param(pack_media(1, 1, 1, b"")[:-1], id="media that is cut"),
        pytest.param(b"\0\0\0\x10\0" + bytes(15), id="media that is cut and says so"),
        pytest.param(json_record(b"[" * 100_000), id="deep lists"),
        pytest.param(json_record(b'{"a":' * 100_000), id="deep objects"),
        pytest.param(json_record(b"[]"), id="a list"),
        pytest.param(json_record(b'[{"type":"tick"}]'), id="a list of a message"),
        pytest.param(json_record(b"null"), id="null"),
        pytest.param(json_record(b'"tick"'), id="a text"),
        pytest.param(json_record(b"7"), id="a number"),
        pytest.param(json_record(b"9" * 5000), id="a long number"),
        pytest.param(json_record(b""), id="a message of nothing"),
    ],
)
def test_a_datagram_of_nobody_is_told(garbage):
    """Behind what is whole."""
    records = unpack(pack_message({"type": "tick"}) + garbage)
    assert next(records) == {"type": "tick"}
    with pytest.raises(ValueError):
        next(records)


# One source


@pytest.mark.parametrize("back_s", [10, 100, 3600])
def test_a_media_time_that_begins_anew_begins_another_file(tmp_path, back_s):
    """With a keyframe, as every file."""
    bench, sender = Bench(tmp_path), Sender(96)
    bench.send(sender, later(VP8[:25], 3600 * 90_000))
    bench.send(sender, later(VP8[25:], (3600 - back_s) * 90_000))
    bench.source.end()
    assert [ended["reason"] for ended in bench.of("segment_ended")] == ["clock_changed", "source_ended"]
    assert [ended["repaired_times"] for ended in bench.of("segment_ended")] == [0, 0]
    first, second = bench.files()
    assert (first.decoded, second.decoded) == (25, 30)
    assert (first.times[0], second.times[0]) == (0, 0)
    assert bench.wanted == 5


def test_a_media_time_of_sound_that_begins_anew_loses_nothing(tmp_path):
    bench, sender = Bench(tmp_path, "audio"), Sender(111)
    bench.send(sender, later(OPUS[:50], 20 * 48_000))
    bench.send(sender, later(OPUS[50:], 10 * 48_000))
    bench.source.end()
    first, second = bench.files()
    assert first.packets + second.packets == [frame.data for frame in OPUS]
    assert bench.of("segment_ended")[0]["reason"] == "clock_changed"


def test_a_media_time_that_is_back_for_a_moment_begins_nothing(tmp_path):
    bench, sender = Bench(tmp_path, "audio"), Sender(111)
    bench.send(sender, later(OPUS[:50], 20 * 48_000))
    bench.send(sender, later(OPUS[49:50], 20 * 48_000 - 2 * 48_000))
    bench.send(sender, later(OPUS[50:], 20 * 48_000))
    bench.source.end()
    (ended,) = bench.of("segment_ended")
    assert (ended["repaired_times"], ended["frames"]) == (1, len(OPUS) + 1)


@pytest.mark.parametrize(("codec", "lost"), [("vp8", False), ("h264", False), ("h264", True)])
def test_half_a_frame_at_the_end_is_told(tmp_path, codec, lost):
    """It is in no file; a loss it is only if something of it was lost before the end came."""
    frames = pictures(codec)
    bench, sender = Bench(tmp_path), Sender(96 if codec == "vp8" else 102)
    bench.send(sender, frames[:10])
    parts = sender.send(replace(frames[0], timestamp=frames[10].timestamp))
    assert len(parts) > (3 if lost else 1)
    for index, packet in enumerate(parts[:-1]):
        if not (lost and index == 1):
            bench.source.receive(packet, 0, 0.0)
    bench.source.end()
    (ended,) = bench.of("segment_ended")
    assert ended.get("unfinished_frame", False) is not lost
    losses = [
        (loss["packets"], loss["broken_frames"], loss["frames_before_keyframe"]) for loss in bench.of("loss")
    ]
    assert losses == ([(1, 1, 0)] if lost else [])
    (played,) = bench.files()
    assert played.decoded == 10
    types = [type_ for type_, _ in bench.told]
    assert types[-1] == "segment_ended"
