"""A recording from its first event to its seal; and whatever interrupts it, what is left proves itself.

A crash is a copy of the folder at some moment: all that another process would find.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sfu.recorder import evidence
from sfu.recorder.evidence import EVENTS, MANIFEST, SIGNATURE, Problem, verify
from sfu.recorder.recording import LAST_SEALED, Recording, seal_unsealed, sync
from tests.unit.recorder.encoded import FORMATS, SIZE, Sender, pictures, play, sounds

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = KEY.public_key()

VP8, OPUS = pictures("vp8"), sounds()
VIDEO, AUDIO = "0001-video-vp8.mkv", "0002-audio-opus.mka"

TOLD_FORMATS = {str(pt): [each.name, each.clock_rate, each.channels] for pt, each in FORMATS.items()}

STARTED_AT = "2024-05-01T12:00:00.000Z"


def about(recording_id: str) -> dict:
    return {
        "recording_id": recording_id,
        "call_id": "call_1",
        "room": "комната",
        "started_at": STARTED_AT,
        "by": "alice",
    }


def source(kind: str, participant: str) -> dict:
    return {
        "kind": kind,
        "track_id": f"{participant}-{kind}",
        "participant_id": participant,
        "user_id": f"user of {participant}",
        "user_name": "Жанна",
        "source": "camera" if kind == "video" else "microphone",
        "rid": "",
        "ssrc": 7,
    }


def begin(root: Path, recording_id: str = "rec_1") -> Recording:
    """Begin a recording of a picture and a sound."""
    recording = Recording(root / recording_id, about(recording_id), KEY, lambda number: None)
    recording.add_source(1, source("video", "alice"), TOLD_FORMATS)
    recording.add_source(2, source("audio", "bob"), TOLD_FORMATS)
    return recording


def second(recording: Recording, now: float) -> None:
    """Do what is done once a second."""
    sync(recording.tick(now))
    recording.checkpoint()


class Talk:
    """Two seconds of media, packet by packet at their times."""

    def __init__(self) -> None:
        senders = {1: Sender(96), 2: Sender(111)}
        steps = [(frame.timestamp / 90, 1, frame) for frame in VP8]
        steps += [(frame.timestamp / 48, 2, frame) for frame in OPUS]
        self.packets: list[tuple[float, int, bytes]] = [
            (at_ms, number, packet)
            for at_ms, number, frame in sorted(steps, key=lambda step: step[:2])
            for packet in senders[number].send(frame)
        ]

    def give(
        self,
        recording: Recording,
        *,
        until_ms: float = 10_000,
        after: Callable[[int], None] = lambda index: None,
        drop: Callable[[int], bool] = lambda index: False,
    ) -> None:
        """Let packets come; `after` each something may be done."""
        ticked = 0
        for index, (at_ms, number, packet) in enumerate(self.packets):
            if at_ms >= until_ms:
                return
            if at_ms // 500 > ticked:
                ticked += 1
                second(recording, at_ms / 1000)
            if not drop(index):
                recording.media(number, packet, round(at_ms * 1000), at_ms / 1000)
            after(index)


def record(root: Path, recording_id: str = "rec_1") -> dict:
    recording = begin(root, recording_id)
    Talk().give(recording)
    return recording.close("call_ended", {"dropped": 0}, 2000)


def crashed(tmp_path: Path, until_ms: float = 1800) -> Path:
    """Return the folder of what a process left that was killed."""
    recording = begin(tmp_path / "live")
    Talk().give(recording, until_ms=until_ms)
    return copy_of(recording.folder, tmp_path / "crashed")


def copy_of(folder: Path, root: Path) -> Path:
    return Path(shutil.copytree(folder, root / folder.name))


def events_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / EVENTS).read_bytes().splitlines()]


def played(folder: Path, name: str) -> int:
    return play((folder / name).read_bytes()).decoded


def right(folder: Path) -> evidence.Verdict:
    verdict = verify(folder, TRUSTED)
    assert verdict.problems == ()
    return verdict


# One that is ended


def test_a_recording_that_is_closed_is_right(tmp_path):
    """All that was sent is in it."""
    manifest = record(tmp_path)
    folder = tmp_path / "rec_1"
    assert right(folder) == evidence.Verdict("rec_1", "call_ended", (), evidence.key_id(TRUSTED))
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        (VIDEO, AUDIO, EVENTS, MANIFEST, SIGNATURE)
    )
    assert (played(folder, VIDEO), played(folder, AUDIO)) == (len(VP8), len(OPUS))
    assert json.loads((folder / MANIFEST).read_bytes()) == json.loads(json.dumps(manifest))


def test_the_manifest_tells_what_was_recorded(tmp_path):
    """Of whom each file is, when it begins and how long it is."""
    manifest = record(tmp_path)
    told = {name: manifest[name] for name in ("recording_id", "call_id", "room", "started_at", "ended_at")}
    assert told == {
        "recording_id": "rec_1",
        "call_id": "call_1",
        "room": "комната",
        "started_at": STARTED_AT,
        "ended_at": "2024-05-01T12:00:02.000Z",
    }
    assert (manifest["duration_ms"], manifest["end_reason"], manifest["damage"]) == (2000, "call_ended", [])
    assert (manifest["pauses"], manifest["previous"]) == ([], None)
    assert set(manifest["losses"].values()) == {0}
    video, audio = manifest["files"]
    content = (tmp_path / "rec_1" / VIDEO).read_bytes()
    assert video == source("video", "alice") | {
        "name": VIDEO,
        "codec": "vp8",
        "clock_rate": 90_000,
        "channels": 1,
        "size": list(SIZE),
        "start_ms": 0,
        "rtp_start": 0,
        "duration_ms": round(VP8[-1].timestamp / 90),
        "frames": len(VP8),
        "repaired_times": 0,
        "reason": "source_ended",
        "sha256": sha256(content).hexdigest(),
        "bytes": len(content),
    }
    assert (audio["name"], audio["frames"], audio["participant_id"]) == (AUDIO, len(OPUS), "bob")


def test_the_log_tells_what_happened_in_order(tmp_path):
    """Times do not go back, whatever was told last."""
    recording = begin(tmp_path)
    Talk().give(recording, until_ms=900)
    recording.event("participant_left", {"participant": "bob"}, 700)
    recording.event("participant_joined", {"participant": "carol"}, 1234)
    recording.event("participant_left", {"participant": "carol"})
    recording.close("call_ended", {}, 1100)
    events = events_of(tmp_path / "rec_1")
    times = [event["t_ms"] for event in events]
    assert times == sorted(times)
    began = datetime.fromisoformat(STARTED_AT)
    assert [datetime.fromisoformat(event["at"]) for event in events] == [
        began + timedelta(milliseconds=at) for at in times
    ]
    types = [event["type"] for event in events if event["type"] != "checkpoint"]
    assert types == [
        *("recording_started", "source_started", "source_started", "segment_started", "segment_started"),
        *("participant_left", "participant_joined", "participant_left"),
        *("segment_ended", "source_ended", "segment_ended", "source_ended", "recording_ended"),
    ]
    assert events[0]["data"] == about("rec_1")
    right(tmp_path / "rec_1")


def test_a_checkpoint_tells_what_is_on_the_disk(tmp_path):
    """How much of each file, and its hash."""
    recording = begin(tmp_path)
    Talk().give(recording)
    recording.close("call_ended", {}, 2000)
    checkpoints = [e["data"]["files"] for e in events_of(tmp_path / "rec_1") if e["type"] == "checkpoint"]
    assert [set(files) for files in checkpoints] == [{VIDEO, AUDIO}] * 3
    for files in checkpoints:
        for name, told in files.items():
            data = (tmp_path / "rec_1" / name).read_bytes()[: told["bytes"]]
            assert (len(data), sha256(data).hexdigest()) == (told["bytes"], told["sha256"])
    assert checkpoints[-1][VIDEO]["bytes"] > checkpoints[0][VIDEO]["bytes"] > 0


def test_a_recording_of_nothing_is_right(tmp_path):
    """Nobody said anything; nothing is checked where there is nothing."""
    recording = Recording(tmp_path / "rec_1", about("rec_1"), KEY, lambda number: None)
    second(recording, 1.0)
    manifest = recording.close("call_ended", {}, 1000)
    assert (manifest["files"], manifest["events"]["lines"]) == ([], 2)
    right(tmp_path / "rec_1")


def test_a_source_that_ends_is_in_the_recording(tmp_path):
    """Its packets afterwards are nobody's; one that is not known may end, too."""
    recording = begin(tmp_path)
    Talk().give(recording, until_ms=1000)
    recording.end_source(1)
    recording.end_source(1)
    recording.media(1, Talk().packets[0][2], 1_100_000, 1.1)
    Talk().give(recording, until_ms=10)
    manifest = recording.close("call_ended", {}, 2000)
    assert [file["frames"] for file in manifest["files"]] == [30, 50]
    right(tmp_path / "rec_1")


def test_a_source_without_a_keyframe_asks_for_one(tmp_path):
    """By its number."""
    wanted = []
    recording = Recording(tmp_path / "rec_1", about("rec_1"), KEY, wanted.append)
    recording.add_source(5, source("video", "alice"), TOLD_FORMATS)
    for packet in Sender(96).send(VP8[1]):
        recording.media(5, packet, 0, 0.0)
    assert wanted == [5]
    assert recording.close("call_ended", {}, 100)["losses"]["frames_before_keyframe"] == 1


def test_pauses_are_told(tmp_path):
    """Nothing of them is in the files; the last is ended by the end."""
    recording = begin(tmp_path)
    Talk().give(recording, until_ms=500)
    recording.pause({"reason": "by a moderator"}, 500)
    Talk().give(recording, after=lambda index: None, drop=lambda index: index < 60)
    recording.resume({}, 2500)
    recording.pause({}, 3000)
    manifest = recording.close("call_ended", {}, 4000)
    assert manifest["pauses"] == [
        {"from_ms": 500, "to_ms": 2500, "reason": "by a moderator"},
        {"from_ms": 3000, "to_ms": 4000, "reason": ""},
    ]
    assert [file["frames"] for file in manifest["files"]] == [15, 25]
    right(tmp_path / "rec_1")


def test_losses_are_told(tmp_path):
    """All of them together; and what did not even come here."""
    recording, talk = begin(tmp_path), Talk()
    lost = [
        index for index, (at_ms, number, _) in enumerate(talk.packets) if number == 2 and 300 < at_ms < 400
    ]
    talk.give(recording, drop=lambda index: index in lost)
    manifest = recording.close("call_ended", {"dropped": 3}, 2000)
    assert len(lost) == 4
    assert manifest["losses"] == {
        "packets": 4,
        "broken_frames": 0,
        "frames_before_keyframe": 0,
        "dropped_before_recorder": 3,
    }
    assert manifest["files"][1]["frames"] == len(OPUS) - 4


def test_each_recording_names_the_one_before(tmp_path):
    """One that is taken away is missed by the next."""
    first, second_, third = (record(tmp_path, f"rec_{number}") for number in (1, 2, 3))
    hashes = [sha256((tmp_path / f"rec_{n}" / MANIFEST).read_bytes()).hexdigest() for n in (1, 2, 3)]
    assert first["previous"] is None
    assert second_["previous"] == {"recording_id": "rec_1", "manifest_sha256": hashes[0]}
    assert third["previous"] == {"recording_id": "rec_2", "manifest_sha256": hashes[1]}
    last = json.loads((tmp_path / LAST_SEALED).read_bytes())
    assert last == {"recording_id": "rec_3", "manifest_sha256": hashes[2]}
    for number in (1, 2, 3):
        right(tmp_path / f"rec_{number}")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_name_of_the_one_before_that_cannot_be_read_is_none(tmp_path, content):
    (tmp_path / LAST_SEALED).write_bytes(content)
    assert record(tmp_path)["previous"] is None
    right(tmp_path / "rec_1")


def test_two_recordings_side_by_side_do_not_mix(tmp_path):
    """Each has all of its own."""
    one, other = begin(tmp_path, "rec_1"), begin(tmp_path, "rec_2")
    talk = Talk()
    talk.give(one, after=lambda index: other.media(*talk.packets[index][1:], 0, 0.0))
    other.close("call_ended", {}, 2000)
    one.close("asked", {}, 2000)
    for name, reason in (("rec_1", "asked"), ("rec_2", "call_ended")):
        assert right(tmp_path / name).end_reason == reason
        assert (played(tmp_path / name, VIDEO), played(tmp_path / name, AUDIO)) == (len(VP8), len(OPUS))


def test_a_folder_that_is_there_is_not_written_into(tmp_path):
    record(tmp_path)
    with pytest.raises(FileExistsError):
        begin(tmp_path)
    right(tmp_path / "rec_1")


# A process that was killed


def test_at_any_moment_a_crash_leaves_a_recording(tmp_path):
    """It is sealed later and is right; less than a second is missing."""
    recording, talk, root = begin(tmp_path / "live"), Talk(), tmp_path / "crashed"
    moments = {}

    def copy(index: int) -> None:
        if index % 13 == 0:
            copied = copy_of(recording.folder, root / str(index))
            moments[copied] = talk.packets[index][0]

    talk.give(recording, after=copy)
    assert len(moments) > 10
    for folder, at_ms in moments.items():
        (manifest,) = seal_unsealed(folder.parent, KEY)
        assert right(folder).end_reason == manifest["end_reason"] == "crash"
        assert manifest["damage"] == []
        assert manifest["recording_id"] == "rec_1"
        if at_ms > 1000:
            times = play((folder / VIDEO).read_bytes()).times
            assert at_ms - times[-1] < 1000


def test_what_is_sealed_is_not_sealed_again(tmp_path):
    """Nor is what is no recording."""
    folder = crashed(tmp_path)
    (folder.parent / "notes").mkdir()
    (folder.parent / "file").touch()
    assert len(seal_unsealed(folder.parent, KEY)) == 1
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert seal_unsealed(folder.parent, KEY) == []
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_several_that_were_left_are_sealed_one_after_the_other(tmp_path):
    """Each names the one before."""
    folder = crashed(tmp_path)
    for number in (2, 3):
        copy_of(folder, tmp_path / "x").rename(folder.parent / f"rec_{number}")
    manifests = seal_unsealed(folder.parent, KEY)
    assert len(manifests) == 3
    assert [manifest["previous"] is None for manifest in manifests] == [True, False, False]
    for number in (1, 2, 3):
        right(folder.parent / f"rec_{number}")


@pytest.mark.parametrize("torn", [b"{", b'{"at":"2024-05-01T12:00:01.500Z","data":{"fi', b"\0" * 4096])
def test_a_line_of_the_log_that_was_not_ended_is_left_out(tmp_path, torn):
    """Those before it stay."""
    folder = crashed(tmp_path)
    log = (folder / EVENTS).read_bytes()
    (folder / EVENTS).write_bytes(log + torn)
    (manifest,) = seal_unsealed(folder.parent, KEY)
    assert (folder / EVENTS).read_bytes() == log
    assert (manifest["events"]["lines"], manifest["damage"]) == (log.count(b"\n"), [])
    assert right(folder).end_reason == "crash"


def test_a_log_that_was_torn_anywhere_is_sealed(tmp_path):
    """Whatever had not come to the disk; a file of which nothing is told any more does not belong."""
    folder = crashed(tmp_path)
    log = (folder / EVENTS).read_bytes()
    for length in range(0, len(log), len(log) // 12):
        torn = copy_of(folder, tmp_path / f"torn-{length}")
        (torn / EVENTS).write_bytes(log[:length])
        (manifest,) = seal_unsealed(torn.parent, KEY)
        names = {file["name"] for file in manifest["files"]}
        problems = verify(torn, TRUSTED).problems
        assert problems == tuple(
            Problem(name, "it does not belong to the recording")
            for name in (VIDEO, AUDIO)
            if name not in names
        )


def checkpointed(folder: Path, name: str) -> int:
    """How much of a file the last checkpoint tells of."""
    return [e["data"]["files"][name]["bytes"] for e in events_of(folder) if e["type"] == "checkpoint"][-1]


def told_damage(folder: Path, name: str, size: int) -> tuple[Problem, ...]:
    what = f"{name}: its first {size} bytes are not those that were on the disk"
    return (Problem(MANIFEST, f"when it was sealed: {what}"),)


@pytest.mark.parametrize("at", [0, 100, -1], ids=["first", "middle", "last"])
def test_a_byte_that_was_changed_before_the_seal_is_told(tmp_path, at):
    """Of the part that a checkpoint covers."""
    folder = crashed(tmp_path)
    size, data = checkpointed(folder, VIDEO), bytearray((folder / VIDEO).read_bytes())
    data[at if at >= 0 else size - 1] ^= 1
    (folder / VIDEO).write_bytes(data)
    (manifest,) = seal_unsealed(folder.parent, KEY)
    assert len(manifest["damage"]) == 1
    assert verify(folder, TRUSTED).problems == told_damage(folder, VIDEO, size)


@pytest.mark.parametrize("left", [None, 0, 1, -1])
def test_a_file_that_was_cut_or_deleted_before_the_seal_is_told(tmp_path, left):
    """One that is gone is empty then, and stays told."""
    folder = crashed(tmp_path)
    size, data = checkpointed(folder, AUDIO), (folder / AUDIO).read_bytes()
    if left is None:
        (folder / AUDIO).unlink()
    else:
        (folder / AUDIO).write_bytes(data[: left if left >= 0 else size - 1])
    (manifest,) = seal_unsealed(folder.parent, KEY)
    assert manifest["files"][1]["bytes"] == (left or 0 if left != -1 else size - 1)
    assert verify(folder, TRUSTED).problems == told_damage(folder, AUDIO, size)


def test_what_no_checkpoint_covers_may_be_missing(tmp_path):
    """It had not come to the disk."""
    folder = crashed(tmp_path)
    size, data = checkpointed(folder, VIDEO), (folder / VIDEO).read_bytes()
    assert len(data) > size
    (folder / VIDEO).write_bytes(data[:size])
    seal_unsealed(folder.parent, KEY)
    assert right(folder).end_reason == "crash"


def test_a_changed_line_of_the_log_is_told(tmp_path):
    """Before the seal, between others: the chain shows it."""
    folder = crashed(tmp_path)
    lines = (folder / EVENTS).read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"alice", b"carol")
    (folder / EVENTS).write_bytes(b"".join(lines))
    (manifest,) = seal_unsealed(folder.parent, KEY)
    what = "line 3 does not follow the line before it: one of them was changed"
    assert manifest["damage"] == [what]
    problems = verify(folder, TRUSTED).problems
    assert Problem(MANIFEST, f"when it was sealed: {what}") in problems


@pytest.mark.parametrize("left", [(), (SIGNATURE,), (f".{MANIFEST}.new",), (f".{SIGNATURE}.new",)])
def test_a_crash_while_it_is_sealed_is_a_crash(tmp_path, left):
    """Half a manifest, or a signature without one: it is sealed anew, and nothing is left of them."""
    folder = crashed(tmp_path)
    for name in left:
        (folder / name).write_bytes(b'{"half":')
    (manifest,) = seal_unsealed(folder.parent, KEY)
    assert manifest["end_reason"] == "crash"
    right(folder)


def test_one_that_was_ended_and_not_sealed_keeps_its_reason(tmp_path):
    """The log tells it."""
    record(tmp_path)
    folder = tmp_path / "rec_1"
    (folder / MANIFEST).unlink()
    (manifest,) = seal_unsealed(tmp_path, KEY)
    assert manifest["end_reason"] == right(folder).end_reason == "call_ended"


def test_a_pause_that_a_crash_ended_has_no_end(tmp_path):
    recording = begin(tmp_path / "live")
    Talk().give(recording, until_ms=500)
    recording.pause({"reason": "asked"}, 600)
    folder = copy_of(recording.folder, tmp_path / "crashed")
    (manifest,) = seal_unsealed(folder.parent, KEY)
    assert manifest["pauses"] == [{"from_ms": 600, "to_ms": None, "reason": "asked"}]
    right(folder)


# A disk that is full


def full_after(monkeypatch, size: int) -> None:
    """Let the disk take so many bytes and no more; of what does not fit it takes a part."""
    write, left = os.write, size

    def write_a_part(descriptor, data):
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = write(descriptor, data[:left])
        left -= taken
        return taken

    monkeypatch.setattr(os, "write", write_a_part)


@pytest.mark.parametrize("size", [0, 100, 1000, 2000, 5000, 20_000, 30_000])
def test_a_disk_that_is_full_leaves_what_is_on_it(tmp_path, monkeypatch, size):
    """When there is room again it is sealed, and is right."""
    recording = None
    with monkeypatch.context() as patched:
        full_after(patched, size)
        with pytest.raises(OSError) as raised:
            recording = begin(tmp_path)
            Talk().give(recording)
            recording.close("call_ended", {}, 2000)
        assert raised.value.errno == errno.ENOSPC
        if recording is not None:
            recording.abandon()
    assert sum(path.stat().st_size for path in (tmp_path / "rec_1").iterdir()) == size
    (manifest,) = seal_unsealed(tmp_path, KEY)
    assert (manifest["end_reason"], manifest["damage"]) == ("crash", [])
    assert right(tmp_path / "rec_1").end_reason == "crash"


def test_a_disk_that_is_full_when_it_is_sealed_is_sealed_later(tmp_path, monkeypatch):
    """The files are ended; the manifest does not fit."""

    def fsync(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    recording = begin(tmp_path)
    Talk().give(recording)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(OSError):
            recording.close("call_ended", {}, 2000)
    recording.abandon()
    assert [problem.file for problem in verify(tmp_path / "rec_1", TRUSTED).problems] == [MANIFEST]
    (manifest,) = seal_unsealed(tmp_path, KEY)
    assert manifest["end_reason"] == right(tmp_path / "rec_1").end_reason == "call_ended"


def test_the_disk_may_fail_while_it_is_waited_for(tmp_path, monkeypatch):
    """All descriptors are closed all the same."""

    def fdatasync(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    recording = begin(tmp_path)
    Talk().give(recording, until_ms=700)
    descriptors = recording.tick(0.7)
    assert len(descriptors) == 2
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fdatasync)
        with pytest.raises(OSError):
            sync(descriptors)
    for descriptor in descriptors:
        with pytest.raises(OSError):
            os.fstat(descriptor)


def test_one_that_is_abandoned_is_sealed_later(tmp_path):
    """Its files are as they are."""
    recording = begin(tmp_path)
    Talk().give(recording)
    recording.abandon()
    assert recording.sources == {}
    (manifest,) = seal_unsealed(tmp_path, KEY)
    assert manifest["end_reason"] == right(tmp_path / "rec_1").end_reason == "crash"
    assert (played(tmp_path / "rec_1", VIDEO), played(tmp_path / "rec_1", AUDIO)) == (len(VP8), len(OPUS))
