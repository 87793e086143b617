"""Evidence of a recording: one that is whole is right, and whatever is done to its folder is noticed.

The attacker of these tests may write anything into the folder and has any key but the one that signed.
"""

import base64
import hashlib
import json
import os
import random
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import HealthCheck, example, given, settings, strategies as st

from sfu.recorder import evidence
from sfu.recorder.evidence import (
    EVENTS,
    FORMAT,
    MANIFEST,
    NOTHING,
    SIGNATURE,
    Chain,
    Problem,
    canonical,
    verify,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = KEY.public_key()
ATTACKER = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))

# What is told of a folder, a link or a pipe in a recording; and of one without a manifest.
NO_FILE = "it is no plain file: a recording is a folder of nothing else"
NOT_SEALED = "it is missing: the recording was not sealed"

SEGMENTS = ("alice-audio-0.ogg", "alice-video-0.webm", "bob-audio-0.ogg")
OTHERS = (
    ("recording_started", {"by": "Жанна"}),
    ("participant_left", {"participant": "bob", "reason": "hangup"}),
)

TRUST = pytest.mark.parametrize("trusted", [TRUSTED, None], ids=["trusted", "beside"])
GARBAGE = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def bytes_of(name: str, seed: int = 1) -> bytes:
    """What a segment holds: another for every name, all of one length."""
    return random.Random(f"{seed} {name}").randbytes(200)


def log_of(*entries: tuple[str, dict]) -> bytes:
    """A log with a right chain."""
    chain = Chain()
    return b"".join(
        chain.line(f"2024-05-01T12:00:{number:02}.000Z", number * 1000, type_, data)
        for number, (type_, data) in enumerate(entries)
    )


def entries_of(names) -> list[tuple[str, dict]]:
    begun = [("segment_started", {"file": name, "codec": "opus"}) for name in names]
    return [OTHERS[0], *begun, OTHERS[1]]


def manifest_of(folder: Path, names, recording_id: str) -> dict:
    log = (folder / EVENTS).read_bytes()
    lines = log.splitlines()
    contents = {name: (folder / name).read_bytes() for name in names}
    return {
        "format": FORMAT,
        "recording_id": recording_id,
        "end_reason": "call_ended",
        "files": [
            {"name": name, "sha256": sha256(content), "bytes": len(content), "kind": "segment"}
            for name, content in contents.items()
        ],
        "events": {
            "sha256": sha256(log),
            "bytes": len(log),
            "lines": len(lines),
            "head": sha256(lines[-1]) if lines else NOTHING,
        },
    }


def seal(folder: Path, manifest: dict, key: Ed25519PrivateKey = KEY) -> Path:
    raw = canonical(manifest)
    (folder / MANIFEST).write_bytes(raw)
    (folder / SIGNATURE).write_bytes(evidence.sign(raw, key))
    return folder


def record(folder: Path, names=SEGMENTS, *, recording_id="rec_1", seed=1, key=KEY) -> Path:
    """Make a recording that is sealed as it should be."""
    folder.mkdir()
    (folder / EVENTS).write_bytes(log_of(*entries_of(names)))
    for name in names:
        (folder / name).write_bytes(bytes_of(name, seed))
    return seal(folder, manifest_of(folder, names, recording_id), key)


def named(folder: Path, trusted: Ed25519PublicKey | None = TRUSTED) -> set[str]:
    """The files of which something is wrong."""
    return {problem.file for problem in verify(folder, trusted).problems}


def whats(folder: Path, file: str, trusted: Ed25519PublicKey | None = TRUSTED) -> str:
    return "; ".join(problem.what for problem in verify(folder, trusted).problems if problem.file == file)


def told_of(folder: Path) -> dict:
    return json.loads((folder / SIGNATURE).read_bytes())


def tell(folder: Path, told: dict) -> None:
    (folder / SIGNATURE).write_bytes(canonical(told))


def lines_of(folder: Path) -> list[bytes]:
    return (folder / EVENTS).read_bytes().splitlines(keepends=True)


def flipped(data: bytes, at: int, bits: int = 1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= bits
    return bytes(changed)


def every_flip(folder: Path, file: str):
    """Change every byte of a file by one bit, one at a time; yields the place of each."""
    path = folder / file
    good = path.read_bytes()
    for at in range(len(good)):
        # Another letter, another case, no letter, no UTF-8: each has its turn.
        path.write_bytes(flipped(good, at, (0x01, 0x02, 0x80, 0x04, 0x20)[at % 5]))
        yield at
    path.write_bytes(good)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory) -> dict[str, bytes]:
    """What is in the folder of a recording that is whole."""
    return {
        path.name: path.read_bytes() for path in record(tmp_path_factory.mktemp("sealed") / "rec_1").iterdir()
    }


@pytest.fixture
def folder(tmp_path, sealed) -> Path:
    """A folder of a recording that is whole, for one test."""
    folder = tmp_path / "rec_1"
    folder.mkdir()
    for name, content in sealed.items():
        (folder / name).write_bytes(content)
    return folder


# One that is whole


@TRUST
def test_a_whole_recording_is_right(folder, trusted):
    """Nothing is wrong with it, and it tells which it is, why it ended and who signed."""
    verdict = verify(folder, trusted)
    assert verdict.is_right
    assert verdict == evidence.Verdict("rec_1", "call_ended", (), evidence.key_id(TRUSTED))


@TRUST
@pytest.mark.parametrize("names", [(), SEGMENTS[:1]], ids=["none", "one"])
def test_a_recording_of_few_segments_is_right(tmp_path, names, trusted):
    """A call in which nobody sent anything is a recording too."""
    assert verify(record(tmp_path / "rec_2", names), trusted).is_right


def test_two_segments_may_hold_the_same(tmp_path):
    """What is equal was not exchanged."""
    folder = record(tmp_path / "rec_1")
    for name in SEGMENTS:
        (folder / name).write_bytes(b"the same")
    seal(folder, manifest_of(folder, SEGMENTS, "rec_1"))
    assert verify(folder, TRUSTED).is_right


def test_a_segment_may_be_empty(tmp_path):
    """A process was killed before it wrote the first byte."""
    folder = record(tmp_path / "rec_1")
    (folder / SEGMENTS[1]).write_bytes(b"")
    seal(folder, manifest_of(folder, SEGMENTS, "rec_1"))
    assert verify(folder, TRUSTED).is_right


def test_a_segment_does_not_stand_in_a_subfolder(tmp_path):
    """Whoever sealed it: a recording is flat."""
    folder = tmp_path / "rec_1"
    (folder / "alice").mkdir(parents=True)
    names = ("alice/audio-0.ogg", "b.ogg")
    (folder / EVENTS).write_bytes(log_of(*entries_of(names)))
    for name in names:
        (folder / name).write_bytes(b"what was said")
    seal(folder, manifest_of(folder, names, "rec_1"))
    assert verify(folder, TRUSTED).problems == (
        Problem("alice", NO_FILE),
        Problem("alice/audio-0.ogg", "it is no file of the folder"),
    )


def test_a_large_file_is_hashed_whole(tmp_path):
    """The hash of a file does not depend on how it is read."""
    data = bytes(range(256)) * 4097 * 2
    (tmp_path / "large").write_bytes(data)
    assert evidence.sha256_of(tmp_path / "large") == (sha256(data), len(data))


def test_the_check_writes_nothing(folder):
    """A recording is as it was after it was looked at."""
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    verify(folder, TRUSTED)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before


def test_a_problem_reads_as_a_line():
    assert str(Problem("a.ogg", "it is missing")) == "a.ogg: it is missing"


# One byte of one file


@TRUST
@pytest.mark.parametrize("at", [0, 99, -1], ids=["first", "middle", "last"])
@pytest.mark.parametrize("name", SEGMENTS)
def test_a_changed_byte_of_a_segment_is_noticed(folder, name, at, trusted):
    """The segment is named, and nothing else."""
    path = folder / name
    path.write_bytes(flipped(path.read_bytes(), at))
    assert verify(folder, trusted).problems == (Problem(name, "its content was changed"),)


@pytest.fixture(scope="module")
def who_is_named(tmp_path_factory) -> dict[int, set[str]]:
    """What is told when a byte of a short log is changed, for every byte."""
    folder = record(tmp_path_factory.mktemp("flips") / "rec_1", SEGMENTS[:1])
    return {at: named(folder) for at in every_flip(folder, EVENTS)}


def test_every_changed_byte_of_the_log_is_noticed(who_is_named):
    """Whatever it becomes: another letter, another line, no JSON, no UTF-8."""
    assert len(who_is_named) > 400
    assert [at for at, who in who_is_named.items() if not who] == []


def test_every_changed_byte_of_the_log_names_the_log(who_is_named):
    """Nothing else of the folder was changed."""
    assert [at for at, who in who_is_named.items() if EVENTS not in who] == []


@TRUST
def test_every_changed_byte_of_the_manifest_is_noticed(tmp_path, trusted):
    """It is the signature that tells: what else is said follows from what the manifest became."""
    folder = record(tmp_path / "rec_1", SEGMENTS[:1])
    fit = [
        at for at in every_flip(folder, MANIFEST) if "does not fit" not in whats(folder, MANIFEST, trusted)
    ]
    assert fit == []


def slack_of(folder: Path) -> dict[str, int]:
    """Where the last letters of the key and of the signature stand: not all their bits are used."""
    raw = (folder / SIGNATURE).read_bytes()
    told = told_of(folder)
    return {
        name: raw.index(told[name].encode()) + len(told[name].rstrip("=")) - 1
        for name in ("public_key", "signature")
    }


@TRUST
def test_every_changed_byte_of_the_signature_is_noticed(tmp_path, trusted):
    """Another signature that can be read is told of the manifest, which it does not fit; the rest of the file
    itself."""
    folder = record(tmp_path / "rec_1", SEGMENTS[:1])
    raw, signature = (folder / SIGNATURE).read_bytes(), told_of(folder)["signature"]
    start = raw.index(signature.encode())
    slack = slack_of(folder).values()
    for at in every_flip(folder, SIGNATURE):
        if at in slack:
            continue
        who = named(folder, trusted)
        if start <= at < start + len(signature):
            assert who in ({SIGNATURE}, {MANIFEST}), at
        else:
            assert SIGNATURE in who, at
            assert who <= {SIGNATURE, MANIFEST}, at


@pytest.mark.parametrize("name", ["public_key", "signature"])
def test_the_unused_bits_of_the_last_letter_are_noticed(folder, name):
    """There is one way to write a signature, not four or sixteen."""
    raw, at = (folder / SIGNATURE).read_bytes(), slack_of(folder)[name]
    unnoticed = []
    for letter in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/":
        (folder / SIGNATURE).write_bytes(raw[:at] + bytes([letter]) + raw[at + 1 :])
        if letter != raw[at] and verify(folder, TRUSTED).is_right:
            unnoticed.append(chr(letter))
    assert unnoticed == []


# Longer and shorter


@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.parametrize("size", [0, 1, 199, 201, 400])
def test_a_segment_of_another_size_is_noticed(folder, name, size):
    """It is told how many bytes there are, and how many there were."""
    path = folder / name
    path.write_bytes((path.read_bytes() * 2)[:size])
    assert verify(folder).problems == (Problem(name, f"it has {size} bytes, not 200"),)


@pytest.mark.parametrize("more", [b"\0", b" ", b"\n", b"\n\n", b"\r\n", b"{}\n", b"{}", b"\xff"])
@pytest.mark.parametrize("file", [EVENTS, MANIFEST, SIGNATURE])
def test_anything_appended_is_noticed(folder, file, more):
    """White space too, which a reader of JSON would skip."""
    with (folder / file).open("ab") as opened:
        opened.write(more)
    assert named(folder) == {file}


@pytest.mark.parametrize("more", [b" ", b"\n", b"\xef\xbb\xbf", b"\0"])
@pytest.mark.parametrize("file", [EVENTS, MANIFEST, SIGNATURE])
def test_anything_put_before_is_noticed(folder, file, more):
    """A byte order mark too."""
    path = folder / file
    path.write_bytes(more + path.read_bytes())
    assert named(folder) == {file}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("file", [MANIFEST, SIGNATURE])
def test_another_encoding_is_noticed(folder, file, encoding):
    """The values are the same, the bytes are not."""
    path = folder / file
    path.write_bytes(path.read_bytes().decode().encode(encoding))
    assert named(folder) == {file}


def test_a_log_in_another_encoding_is_noticed(folder):
    path = folder / EVENTS
    path.write_bytes(path.read_bytes().decode().encode("utf-16"))
    assert EVENTS in named(folder)


@pytest.mark.parametrize("file", [EVENTS, MANIFEST, SIGNATURE])
def test_every_cut_is_noticed(tmp_path, file):
    """Wherever the file ends. Of a log that lacks whole lines it is also told that it began other files."""
    folder = record(tmp_path / "rec_1", SEGMENTS[:1])
    path = folder / file
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        assert named(folder) - ({MANIFEST} if file == EVENTS else set()) == {file}, length


# Segments


@TRUST
@pytest.mark.parametrize("name", SEGMENTS)
def test_a_dropped_segment_is_noticed(folder, name, trusted):
    """Wherever in the recording it was."""
    (folder / name).unlink()
    assert verify(folder, trusted).problems == (Problem(name, "it is missing"),)


def test_all_segments_dropped_are_told_one_by_one(folder):
    for name in SEGMENTS:
        (folder / name).unlink()
    assert [problem.file for problem in verify(folder, TRUSTED).problems] == list(SEGMENTS)


@TRUST
@pytest.mark.parametrize("one, other", [(0, 1), (0, 2), (1, 2)])
def test_swapped_segments_are_noticed(folder, one, other, trusted):
    """Each is told to hold what the other should."""
    first, second = SEGMENTS[one], SEGMENTS[other]
    (folder / first).write_bytes(bytes_of(second))
    (folder / second).write_bytes(bytes_of(first))
    assert verify(folder, trusted).problems == (
        Problem(first, f"it holds what {second} should hold"),
        Problem(second, f"it holds what {first} should hold"),
    )


def test_a_segment_over_another_is_noticed(folder):
    """What one says is put into the mouth of another."""
    (folder / SEGMENTS[2]).write_bytes(bytes_of(SEGMENTS[0]))
    assert verify(folder, TRUSTED).problems == (
        Problem(SEGMENTS[2], f"it holds what {SEGMENTS[0]} should hold"),
    )


@pytest.mark.parametrize("new", ["alice-audio-1.ogg", "ALICE-AUDIO-0.ogg", "alice-audio-0.ogg ", "ä.ogg"])
def test_a_renamed_segment_is_noticed(folder, new):
    """The old name is missing and the new one does not belong."""
    (folder / SEGMENTS[0]).rename(folder / new)
    assert verify(folder, TRUSTED).problems == (
        Problem(SEGMENTS[0], "it is missing"),
        Problem(new, "it does not belong to the recording"),
    )


def test_a_segment_moved_into_a_subfolder_is_noticed(folder):
    (folder / "sub").mkdir()
    (folder / SEGMENTS[0]).rename(folder / "sub" / SEGMENTS[0])
    assert verify(folder, TRUSTED).problems == (
        Problem("sub", NO_FILE),
        Problem(SEGMENTS[0], "it is missing"),
    )


@TRUST
@pytest.mark.parametrize(
    "stray",
    [
        "carol-audio-0.ogg",
        "notes.txt",
        ".hidden",
        "manifest.json.bak",
        ".manifest.json.new",
        "Manifest.json",
        "events.jsonl ",
        "with\na line.ogg",
    ],
)
def test_a_stray_file_is_noticed(folder, stray, trusted):
    """It is named, hidden or alike to one that belongs; an empty one too."""
    (folder / stray).touch()
    assert verify(folder, trusted).problems == (Problem(stray, "it does not belong to the recording"),)


@TRUST
@pytest.mark.parametrize(
    "stray", [".hidden/deep/er.txt", "sub/alice-audio-0.ogg", "sub/manifest.json", "sub/events.jsonl"]
)
def test_a_stray_file_in_a_subfolder_is_noticed(folder, stray, trusted):
    """The subfolder is named, whatever is in it."""
    (folder / stray).parent.mkdir(parents=True)
    (folder / stray).touch()
    assert verify(folder, trusted).problems == (Problem(stray.partition("/")[0], NO_FILE),)


def test_a_name_that_is_no_utf8_is_noticed(folder):
    """A file system takes any bytes for a name."""
    (folder / os.fsdecode(b"stray-\xff.ogg")).touch()
    assert named(folder) == {os.fsdecode(b"stray-\xff.ogg")}


def test_a_segment_with_its_own_event_and_no_key_is_noticed(folder):
    """An attacker adds a segment, and the log tells of it with a right chain."""
    new = "carol-audio-0.ogg"
    (folder / new).write_bytes(b"I never said that")
    (folder / EVENTS).write_bytes(log_of(*entries_of((*SEGMENTS, new))))
    assert verify(folder, TRUSTED).problems[0] == Problem(new, "it does not belong to the recording")
    assert {new, EVENTS} <= named(folder)


# What is no plain file


@pytest.mark.parametrize("name", [*SEGMENTS, EVENTS])
def test_a_folder_in_the_place_of_a_file_is_noticed(folder, name):
    """It is told once, as what it is."""
    (folder / name).unlink()
    (folder / name).mkdir()
    assert verify(folder, TRUSTED).problems == (Problem(name, NO_FILE),)


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nowhere", "link to itself"])
@pytest.mark.parametrize("file", [MANIFEST, SIGNATURE])
def test_what_is_no_file_in_the_place_of_manifest_or_signature_is_noticed(folder, file, kind):
    """Nothing of it is read: nobody vouches."""
    (folder / file).unlink()
    match kind:
        case "folder":
            (folder / file).mkdir()
        case "pipe":
            os.mkfifo(folder / file)
        case "link to nowhere":
            (folder / file).symlink_to("nowhere")
        case "link to itself":
            (folder / file).symlink_to(file)
    problems = verify(folder, TRUSTED).problems
    assert problems[0] == Problem(file, NO_FILE)
    assert {problem.file for problem in problems} == {file}
    if file == SIGNATURE:
        assert problems[1:] == (Problem(SIGNATURE, f"nobody vouches for {MANIFEST}"),)


@pytest.mark.parametrize("name", [*SEGMENTS, EVENTS])
def test_a_pipe_in_the_place_of_a_file_is_noticed(folder, name):
    """Nobody waits for one to speak."""
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert verify(folder, TRUSTED).problems == (Problem(name, NO_FILE),)


@pytest.mark.parametrize("target", ["nowhere", SEGMENTS[0], SEGMENTS[1], EVENTS, ".", "/dev/zero"])
def test_a_link_in_the_place_of_a_file_is_noticed(folder, target):
    """Wherever it leads: nowhere, to itself, to another file of the recording, to one that never ends."""
    (folder / SEGMENTS[0]).unlink()
    (folder / SEGMENTS[0]).symlink_to(target)
    assert verify(folder, TRUSTED).problems == (Problem(SEGMENTS[0], NO_FILE),)


def test_a_link_to_a_file_does_not_belong(folder, tmp_path):
    """Inside or outside of the folder."""
    (tmp_path / "outside").touch()
    (folder / "out").symlink_to(tmp_path / "outside")
    (folder / "in").symlink_to(SEGMENTS[0])
    assert verify(folder, TRUSTED).problems == (Problem("in", NO_FILE), Problem("out", NO_FILE))


def test_a_folder_that_holds_itself_is_not_walked(folder):
    """A circle of links is not entered."""
    (folder / "sub").mkdir()
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "sub" / "stray").touch()
    assert verify(folder, TRUSTED).problems == (Problem("sub", NO_FILE),)


@pytest.mark.parametrize("kind", ["link to a folder", "link to nowhere", "pipe", "empty folder"])
def test_what_is_no_file_does_not_belong_either(folder, tmp_path, kind):
    """A folder of other files may stand in the recording behind a link."""
    stray = folder / "stray"
    match kind:
        case "link to a folder":
            (tmp_path / "elsewhere").mkdir()
            (tmp_path / "elsewhere" / "forged.ogg").touch()
            stray.symlink_to(tmp_path / "elsewhere")
        case "link to nowhere":
            stray.symlink_to("not yet there")
        case "pipe":
            os.mkfifo(stray)
        case "empty folder":
            stray.mkdir()
    assert verify(folder, TRUSTED).problems == (Problem("stray", NO_FILE),)


@pytest.mark.parametrize("file", [SEGMENTS[0], EVENTS, MANIFEST, SIGNATURE])
def test_a_file_that_is_only_a_link_to_elsewhere_is_noticed(folder, tmp_path, file):
    """What is not in the folder may be another thing tomorrow."""
    (folder / file).rename(tmp_path / "elsewhere")
    (folder / file).symlink_to(tmp_path / "elsewhere")
    assert verify(folder, TRUSTED).problems[0] == Problem(file, NO_FILE)
    assert named(folder) == {file}


def test_a_link_with_too_long_a_target_is_reported(folder):
    """Looking at it fails otherwise than that it is not there."""
    (folder / "stray").symlink_to("x" * 300)
    assert verify(folder, TRUSTED).problems == (Problem("stray", NO_FILE),)


# The log


@TRUST
@pytest.mark.parametrize("number", range(5))
def test_a_changed_value_of_an_event_is_noticed(folder, number, trusted):
    """The line after it does not follow; the last line, which none follows, is the end that the manifest
    tells."""
    lines = lines_of(folder)
    lines[number] = canonical({**json.loads(lines[number]), "t_ms": 1234567}) + b"\n"
    (folder / EVENTS).write_bytes(b"".join(lines))
    assert named(folder, trusted) == {EVENTS}
    what = (
        f"line {number + 2} does not follow the line before it" if number < 4 else "its chain ends otherwise"
    )
    assert what in whats(folder, EVENTS)


@TRUST
@pytest.mark.parametrize("number", range(5))
def test_a_removed_line_is_noticed(folder, number, trusted):
    lines = lines_of(folder)
    del lines[number]
    (folder / EVENTS).write_bytes(b"".join(lines))
    assert named(folder, trusted) == {EVENTS}
    assert "its chain ends otherwise (4 lines, the manifest tells 5)" in whats(folder, EVENTS)


@TRUST
@pytest.mark.parametrize("first", range(4))
def test_swapped_lines_are_noticed(folder, first, trusted):
    lines = lines_of(folder)
    lines[first], lines[first + 1] = lines[first + 1], lines[first]
    (folder / EVENTS).write_bytes(b"".join(lines))
    assert named(folder, trusted) == {EVENTS}
    assert f"line {first + 1} does not follow" in whats(folder, EVENTS)


@TRUST
@pytest.mark.parametrize("number", range(5))
def test_a_doubled_line_is_noticed(folder, number, trusted):
    lines = lines_of(folder)
    lines.insert(number, lines[number])
    (folder / EVENTS).write_bytes(b"".join(lines))
    assert named(folder, trusted) == {EVENTS}
    assert f"line {number + 2} does not follow" in whats(folder, EVENTS)


@TRUST
@pytest.mark.parametrize("number", range(6))
def test_an_inserted_line_is_noticed(folder, number, trusted):
    """Its own place in the chain is right: the one after it is not."""
    lines = lines_of(folder)
    prev = sha256(lines[number - 1].rstrip(b"\n")) if number else NOTHING
    forged = {"n": number, "at": "x", "t_ms": 0, "type": "muted", "data": {}, "prev": prev}
    lines.insert(number, canonical(forged) + b"\n")
    (folder / EVENTS).write_bytes(b"".join(lines))
    assert named(folder, trusted) == {EVENTS}
    what = f"line {number + 2} does not follow" if number < 5 else "its chain ends otherwise (6 lines"
    assert what in whats(folder, EVENTS)


@TRUST
def test_a_whole_new_chain_is_noticed(folder, trusted):
    """All lines follow each other: the manifest tells another end."""
    entries = entries_of(SEGMENTS)
    entries[-1] = ("participant_left", {"participant": "bob", "reason": "thrown out"})
    forged = log_of(*entries)
    assert evidence.read_chain(forged)[1] == []
    (folder / EVENTS).write_bytes(forged)
    what = "its chain ends otherwise (5 lines, the manifest tells 5)"
    assert verify(folder, trusted).problems == (Problem(EVENTS, what),)


def test_a_chain_without_its_end_is_noticed(folder):
    """What is left is a right chain: only the manifest tells that there was more."""
    (folder / EVENTS).write_bytes(b"".join(lines_of(folder)[:-1]))
    what = "its chain ends otherwise (4 lines, the manifest tells 5)"
    assert verify(folder, TRUSTED).problems == (Problem(EVENTS, what),)


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("style", ["spaces", "order", "escapes", "end of line", "twice a name"])
def test_a_line_written_otherwise_is_noticed(folder, number, style):
    """The values are the same: it is no event, and the line after it still is tied to what was written."""
    lines = lines_of(folder)
    event = json.loads(lines[number])
    lines[number] = {
        "spaces": json.dumps(event, sort_keys=True, ensure_ascii=False).encode() + b"\n",
        "order": json.dumps(dict(reversed(event.items())), separators=(",", ":")).encode() + b"\n",
        "escapes": lines[number].replace(b'"type"', rb'"\u0074ype"'),
        "end of line": lines[number].replace(b"\n", b"\r\n"),
        "twice a name": lines[number].replace(b'{"at":', b'{"at":"noon","at":'),
    }[style]
    (folder / EVENTS).write_bytes(b"".join(lines))
    assert named(folder) == {EVENTS}
    told = whats(folder, EVENTS)
    assert f"line {number + 1} is no event" in told
    assert number == 4 or f"line {number + 2} does not follow the line before it" in told


def test_a_wrong_number_is_told():
    """The chain is right and the numbers are not: whoever wrote it counted wrong."""
    chain = Chain()
    chain.lines = 6
    assert evidence.read_chain(chain.line("x", 0, "muted", {}))[1] == ["line 1 is numbered 7"]


def test_a_cut_last_line_is_told(folder):
    """What a crash leaves: it is no event, and those before it are."""
    log = (folder / EVENTS).read_bytes()
    for length in (len(log) - 1, len(log) - 20):
        events, wrong, _head = evidence.read_chain(log[:length])
        assert wrong == ["line 5 is cut"]
        assert [event["n"] for event in events] == [0, 1, 2, 3]
    (folder / EVENTS).write_bytes(log[:-1])
    assert "line 5 is cut" in whats(folder, EVENTS)


def test_a_missing_log_is_noticed(folder):
    (folder / EVENTS).unlink()
    assert verify(folder, TRUSTED).problems == (Problem(EVENTS, "it is missing"),)


def test_an_emptied_log_is_noticed(folder):
    (folder / EVENTS).write_bytes(b"")
    assert EVENTS in named(folder)


def test_a_log_that_lost_only_a_byte_of_its_bytes_is_noticed(folder):
    """The hash of the whole file is looked at, too: the signed manifest tells another."""
    manifest = manifest_of(folder, SEGMENTS, "rec_1")
    manifest["events"]["sha256"] = sha256(b"another")
    seal(folder, manifest)
    assert verify(folder, TRUSTED).problems == (Problem(EVENTS, "its content was changed"),)


@pytest.mark.parametrize("without", ["data", "file"])
def test_an_event_without_what_it_should_have_names_the_log(folder, without):
    """The manifest is as it was signed."""
    lines = lines_of(folder)
    event = json.loads(lines[1])
    del (event if without == "data" else event["data"])[without]
    lines[1] = canonical(event) + b"\n"
    (folder / EVENTS).write_bytes(b"".join(lines))
    assert named(folder) == {EVENTS}


def test_read_chain_gives_what_chain_made():
    """All that was told is there, and the end is the head."""
    chain = Chain()
    log = b"".join(chain.line("noon", n, f"type {n}", {"ä\n\u2028": [n, None, 0.1, True]}) for n in range(7))
    events, wrong, head = evidence.read_chain(log)
    assert wrong == []
    assert head == chain.head
    assert chain.lines == len(events) == log.count(b"\n") == 7
    assert [event["t_ms"] for event in events] == list(range(7))
    assert events[0]["prev"] == NOTHING


def test_an_empty_log_is_a_chain():
    assert evidence.read_chain(b"") == ([], [], NOTHING)


def test_names_that_are_numbers_are_a_chain():
    """Nobody touched it."""
    line = Chain().line("noon", 0, "levels", {"by_stream": {9: 1, 10: 2}})
    assert evidence.read_chain(line)[1] == []


# What is wrong with a line is told, whatever it is: these break the reader of the log.
BROKEN_LINES = {
    "half a surrogate": rb'{"data":"\ud800","n":0,"prev":"%s"}' % NOTHING.encode(),
    "half a surrogate in bytes": b'{"data":"\xed\xa0\x80","n":0,"prev":"%s"}' % NOTHING.encode(),
    "a number that is text": canonical({"n": "0", "prev": NOTHING}),
    "a number that is null": canonical({"n": None, "prev": NOTHING}),
    "very deep": b"[" * 100_000,
}


@pytest.mark.parametrize("line", BROKEN_LINES.values(), ids=BROKEN_LINES)
def test_a_broken_line_is_told_and_not_raised(line):
    """The log of a recording that was not sealed is checked by this alone."""
    assert len(evidence.read_chain(line + b"\n")[1]) == 1


@pytest.mark.parametrize("line", BROKEN_LINES.values(), ids=BROKEN_LINES)
def test_a_broken_line_names_the_log(folder, line):
    """The manifest is as it was signed."""
    (folder / EVENTS).write_bytes(line + b"\n")
    assert EVENTS in named(folder)


# Canonical lines in the right place of a chain that lack a member, have one more, or hold another kind.
EVENT = {"n": 0, "at": "noon", "t_ms": 0, "type": "muted", "data": {}, "prev": NOTHING}
ALMOST_EVENTS = (
    *({name: value for name, value in EVENT.items() if name != without} for without in EVENT),
    EVENT | {"more": 1},
    EVENT | {"n": True},
    EVENT | {"n": 0.0},
    EVENT | {"n": None},
    EVENT | {"t_ms": "0"},
    EVENT | {"t_ms": 0.5},
    EVENT | {"t_ms": False},
    EVENT | {"at": 12},
    EVENT | {"type": None},
    EVENT | {"prev": None},
    EVENT | {"data": []},
    EVENT | {"data": None},
)


def test_an_event_has_six_members():
    """What the lines below differ from."""
    assert evidence.read_chain(canonical(EVENT) + b"\n") == ([EVENT], [], sha256(canonical(EVENT)))


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"{}", b"[]", b"null", b"0", b'"n prev"', b'{"n":0}', b'{"prev":0}', b"\xff", b"nan"),
        b"1" * 5000,
        *(canonical(value) for value in ALMOST_EVENTS),
    ],
)
def test_a_line_that_is_no_event_is_told(line):
    """And the line after it still is tied to it."""
    chain = Chain()
    chain.head, chain.lines = sha256(line), 1
    events, wrong, _head = evidence.read_chain(line + b"\n" + chain.line("noon", 0, "muted", {}))
    assert wrong == ["line 1 is no event"]
    assert len(events) == 1


# The manifest


def test_a_manifest_that_another_key_signed_names_the_key(folder):
    """Files in another order, signed by the attacker: without a trusted key only the order tells."""
    manifest = manifest_of(folder, SEGMENTS, "rec_1")
    manifest["files"].reverse()
    seal(folder, manifest, ATTACKER)
    order = Problem(MANIFEST, "its files are not those, in that order, that the event log began")
    assert verify(folder).problems == (order,)
    verdict = verify(folder, TRUSTED)
    wrong, right = evidence.key_id(ATTACKER.public_key()), evidence.key_id(TRUSTED)
    assert verdict.problems == (
        Problem(SIGNATURE, f"signed by the key {wrong}, not by {right}"),
        Problem(MANIFEST, "the signature does not fit: one of the two was changed"),
        order,
    )
    assert verdict.key_id == wrong


def test_a_recording_forged_as_a_whole_is_noticed_by_the_key_alone(tmp_path):
    """Everything fits, and somebody else vouches for it."""
    forged = record(tmp_path / "rec_1", seed=2, key=ATTACKER)
    assert verify(forged).is_right
    assert named(forged) == {SIGNATURE, MANIFEST}
    assert "signed by the key" in whats(forged, SIGNATURE)


def test_the_wrong_trusted_key_is_told(folder):
    """A good recording of somebody else's."""
    problems = verify(folder, ATTACKER.public_key()).problems
    assert problems[0].file == SIGNATURE
    assert problems[0].what.startswith("signed by the key")


def test_the_trusted_key_beside_a_signature_of_another_is_noticed(folder):
    """The attacker signs, and writes down the name and the key of the one that is trusted."""
    manifest = canonical(manifest_of(folder, SEGMENTS, "rec_2"))
    (folder / MANIFEST).write_bytes(manifest)
    good = told_of(folder)
    tell(folder, {**good, "signature": base64.b64encode(ATTACKER.sign(manifest)).decode()})
    assert named(folder) == {MANIFEST}
    assert named(folder, None) == {MANIFEST}


@pytest.mark.parametrize("files", ["reversed", "less", "twice", "none"])
def test_a_signed_manifest_of_other_files_than_the_log_began_is_noticed(folder, files):
    """Whoever sealed it: the log and the manifest must tell the same."""
    names = {
        "reversed": SEGMENTS[::-1],
        "less": SEGMENTS[:2],
        "twice": (*SEGMENTS, SEGMENTS[0]),
        "none": (),
    }[files]
    manifest = manifest_of(folder, SEGMENTS, "rec_1")
    entries = {entry["name"]: entry for entry in manifest["files"]}
    seal(folder, {**manifest, "files": [entries[name] for name in names]})
    assert MANIFEST in named(folder)


@pytest.mark.parametrize("parts", [(MANIFEST,), (MANIFEST, SIGNATURE), (SIGNATURE,), (EVENTS,)])
@TRUST
def test_parts_of_another_recording_are_noticed(folder, tmp_path, parts, trusted):
    """The same call, the same key, another recording."""
    other = record(tmp_path / "rec_2", recording_id="rec_2", seed=2)
    with (other / EVENTS).open("wb") as opened:
        opened.write(log_of(("recording_started", {"by": "other"}), *entries_of(SEGMENTS)))
    seal(other, manifest_of(other, SEGMENTS, "rec_2"))
    assert verify(other, trusted).is_right
    for part in parts:
        (folder / part).write_bytes((other / part).read_bytes())
    expected = {
        (MANIFEST,): {MANIFEST, EVENTS, *SEGMENTS},
        (MANIFEST, SIGNATURE): {EVENTS, *SEGMENTS},
        (SIGNATURE,): {MANIFEST},
        (EVENTS,): {EVENTS},
    }[parts]
    assert named(folder, trusted) == expected


@TRUST
def test_a_manifest_that_is_only_formatted_is_noticed(folder, trusted):
    """The signature is of its bytes."""
    path = folder / MANIFEST
    path.write_bytes(json.dumps(json.loads(path.read_bytes()), indent=2).encode())
    assert named(folder, trusted) == {MANIFEST}


def test_another_format_is_told(folder):
    """Whoever checks it knows one way of sealing."""
    seal(folder, {**manifest_of(folder, SEGMENTS, "rec_1"), "format": "sfu-recording/2"})
    assert whats(folder, MANIFEST) == "its format is 'sfu-recording/2', not 'sfu-recording/1'"


@pytest.mark.parametrize("without", ["format", "recording_id", "end_reason", "files", "events"])
def test_a_manifest_that_lacks_something_is_told(folder, without):
    """The folder's name stands for what could not be read."""
    manifest = manifest_of(folder, SEGMENTS, "rec_1")
    del manifest[without]
    seal(folder, manifest)
    verdict = verify(folder, TRUSTED)
    assert verdict.problems == (Problem(MANIFEST, "it cannot be read: KeyError"),)
    assert (verdict.recording_id, verdict.end_reason) == ("rec_1", "")


def test_damage_that_was_seen_when_it_was_sealed_is_told(folder):
    """The seal is right, and what it seals was not whole."""
    seal(folder, {**manifest_of(folder, SEGMENTS, "rec_1"), "damage": ["the disk was full", "line 7 is cut"]})
    problems = verify(folder, TRUSTED).problems
    assert [problem.file for problem in problems] == [MANIFEST, MANIFEST]
    assert "the disk was full" in problems[0].what


def test_a_manifest_of_any_shape_is_told(folder):
    """It is told, also where the signature is right."""
    lists = (None, 1, "abc", {}, [1], [[]], [{}], [{"name": [], "sha256": "x"}], [{"name": "a"}])
    logs = (None, [], "abc", {}, {"lines": 1})
    whole = {"format": FORMAT, "recording_id": 1, "end_reason": None}
    shaped = [{**whole, "files": files, "events": events} for files in lists for events in logs]
    for manifest in (None, [], {}, "text", 1, *shaped):
        seal(folder, manifest)
        assert MANIFEST in named(folder), manifest


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", ".", "", "sub/../a", "sub/b", "../rec_1/a"])
def test_a_manifest_does_not_lead_out_of_the_folder(folder, tmp_path, name):
    """Nothing outside of it is read for a name that a manifest tells."""
    (tmp_path / "outside").write_bytes(b"secret")
    manifest = manifest_of(folder, SEGMENTS, "rec_1")
    manifest["files"].append({"name": name, "sha256": sha256(b"secret"), "bytes": 6})
    seal(folder, manifest, ATTACKER)
    assert Problem(name, "it is no file of the folder") in verify(folder).problems


# The signature


def test_a_missing_signature_is_told(folder):
    """Nobody signed: no key is told."""
    (folder / SIGNATURE).unlink()
    verdict = verify(folder, TRUSTED)
    assert verdict.problems == (
        Problem(SIGNATURE, "it is missing"),
        Problem(SIGNATURE, f"nobody vouches for {MANIFEST}"),
    )
    assert verdict.key_id == ""
    assert verdict.recording_id == "rec_1"


@pytest.mark.parametrize("name", ["algorithm", "key_id", "public_key", "signature"])
def test_a_signature_with_another_value_is_told(folder, name):
    """A signature that can be read does not fit the manifest; all else is wrong with the file itself."""
    good = told_of(folder)
    tell(folder, {key: value for key, value in good.items() if key != name})
    assert named(folder) == {SIGNATURE}
    for value in (None, 1, "", "AAAA", "ä", "Ed448", [], {}):
        tell(folder, {**good, name: value})
        readable = name == "signature" and value in ("", "AAAA")
        assert named(folder) == ({MANIFEST} if readable else {SIGNATURE}), value


def test_the_name_of_the_trusted_key_over_another_key_is_told(folder):
    """It would be read by a person: the file is not as it is written, and nobody is named."""
    manifest = (folder / MANIFEST).read_bytes()
    tell(folder, {**json.loads(evidence.sign(manifest, ATTACKER)), "key_id": evidence.key_id(TRUSTED)})
    assert verify(folder).problems == (Problem(SIGNATURE, "it cannot be read: ValueError"),)
    assert verify(folder).key_id == ""


@pytest.mark.parametrize("style", ["spaces", "order", "twice a name", "line"])
def test_a_signature_written_otherwise_is_told(folder, style):
    path = folder / SIGNATURE
    told, raw = told_of(folder), path.read_bytes()
    other = {
        "spaces": json.dumps(told, sort_keys=True).encode(),
        "order": json.dumps(dict(reversed(told.items())), separators=(",", ":")).encode(),
        "twice a name": raw.replace(b'{"algorithm"', b'{"algorithm":"none","algorithm"'),
        "line": raw + b"\n",
    }[style]
    path.write_bytes(other)
    assert verify(folder, TRUSTED).problems == (Problem(SIGNATURE, "it cannot be read: ValueError"),)


@pytest.mark.parametrize("more", [{"signed_at": "1999-12-31"}, {"aaa": "x" * 1000}, {"": None}])
def test_more_than_a_signature_is_told(folder, more):
    """Nobody signed it, and it stands beside what is proven."""
    tell(folder, {**told_of(folder), **more})
    assert named(folder) == {SIGNATURE}


def test_a_signature_with_a_larger_number_is_told(folder):
    """The order of the group added to its second half: the same signature for one who does not look."""
    told = told_of(folder)
    signature = base64.b64decode(told["signature"])
    order = 2**252 + 27742317777372353535851937790883648493
    second = int.from_bytes(signature[32:], "little") + order
    told["signature"] = base64.b64encode(signature[:32] + second.to_bytes(32, "little")).decode()
    tell(folder, told)
    assert named(folder) == {MANIFEST}


def test_a_key_of_nothing_is_not_the_trusted_one(folder):
    """A key of zeros, for which signatures can be made without a secret."""
    told = told_of(folder)
    point = b"\1" + bytes(31)
    told |= {
        "public_key": base64.b64encode(point).decode(),
        "key_id": sha256(point)[:16],
        "signature": base64.b64encode(point + bytes(32)).decode(),
    }
    tell(folder, told)
    assert SIGNATURE in named(folder)


@pytest.mark.parametrize("file", [EVENTS, MANIFEST, SIGNATURE])
def test_json_that_is_very_deep_is_reported(folder, file):
    """It is valid as far as it goes."""
    (folder / file).write_bytes(b"[" * 100_000 + b"\n")
    assert file in named(folder)


# Not sealed


def unseal(folder: Path) -> Path:
    (folder / MANIFEST).unlink()
    (folder / SIGNATURE).unlink()
    return folder


@TRUST
def test_a_recording_that_was_not_sealed_is_told(folder, trusted):
    """A crash: the chain is good as far as it goes, and that is all that is told."""
    unseal(folder)
    verdict = verify(folder, trusted)
    assert verdict == evidence.Verdict("rec_1", "", (Problem(MANIFEST, NOT_SEALED),))
    assert not verdict.is_right


@pytest.mark.parametrize("number", range(4))
def test_a_broken_chain_that_was_not_sealed_is_told(folder, number):
    """The chain alone shows what was changed, but for its last line."""
    lines = lines_of(unseal(folder))
    lines[number] = canonical({**json.loads(lines[number]), "t_ms": 7}) + b"\n"
    (folder / EVENTS).write_bytes(b"".join(lines))
    assert verify(folder, TRUSTED).problems == (
        Problem(EVENTS, f"line {number + 2} does not follow the line before it: one of them was changed"),
        Problem(MANIFEST, NOT_SEALED),
    )


def test_a_cut_chain_that_was_not_sealed_is_told(folder):
    log = (unseal(folder) / EVENTS).read_bytes()
    (folder / EVENTS).write_bytes(log[:-5])
    assert whats(folder, EVENTS) == "line 5 is cut"


@pytest.mark.parametrize("there", [True, False], ids=["empty", "no folder"])
def test_a_folder_of_nothing_is_told(tmp_path, there):
    """And one that is not there."""
    folder = tmp_path / "rec_9"
    if there:
        folder.mkdir()
    assert verify(folder, TRUSTED).problems == (
        *(() if there else (Problem(".", "the folder cannot be read: No such file or directory"),)),
        Problem(EVENTS, "it is missing"),
        Problem(MANIFEST, NOT_SEALED),
    )


def test_a_signature_without_a_manifest_seals_nothing(folder):
    (folder / MANIFEST).unlink()
    assert MANIFEST in named(folder)


# Garbage

# Beside bytes of any kind, JSON of any kind: more of it gets past the first look.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("data", "type", "files", "events", "name", "sha256", "format", "public_key"))
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
ANYTHING = st.binary(max_size=300) | JSON.map(canonical)
MANIFESTS = st.fixed_dictionaries(
    {
        "recording_id": JSON,
        "end_reason": JSON,
        "files": JSON,
        "events": JSON,
        "format": JSON | st.just(FORMAT),
    }
)


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "not sealed"])
@pytest.mark.parametrize("file", [EVENTS, MANIFEST, SIGNATURE, SEGMENTS[0]])
@GARBAGE
@given(garbage=ANYTHING)
@example(garbage=b"")
def test_garbage_in_a_file_is_reported(tmp_path_factory, file, sealed, garbage):
    """Nothing is raised, and the file is named where there is a seal."""
    folder = garbage_folder(tmp_path_factory, sealed)
    good = (folder / file).read_bytes() if (folder / file).exists() else None
    (folder / file).write_bytes(garbage)
    assert file in named(folder) or not sealed
    assert named(folder, None)
    if good is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(good)


def garbage_folder(tmp_path_factory, sealed: bool) -> Path:
    """One folder for all garbage: it is put back as it was."""
    folder = tmp_path_factory.getbasetemp() / f"garbage-{sealed}"
    if not folder.exists():
        record(folder)
        if not sealed:
            unseal(folder)
    return folder


@GARBAGE
@given(garbage=st.fixed_dictionaries({file: ANYTHING for file in (EVENTS, MANIFEST, SIGNATURE, *SEGMENTS)}))
def test_garbage_in_every_file_is_reported(tmp_path_factory, garbage):
    """Nothing is raised."""
    folder = tmp_path_factory.getbasetemp() / "all-garbage"
    folder.mkdir(exist_ok=True)
    for file, data in garbage.items():
        (folder / file).write_bytes(data)
    assert {MANIFEST, SIGNATURE} <= named(folder)
    assert {MANIFEST, SIGNATURE} <= named(folder, None)


@GARBAGE
@given(manifest=MANIFESTS)
def test_a_manifest_of_garbage_that_is_signed_is_reported(tmp_path_factory, manifest):
    """The names are there, the values are anything, and the signature is right."""
    folder = tmp_path_factory.getbasetemp() / "signed-garbage"
    if not folder.exists():
        record(folder)
    seal(folder, manifest)
    assert not verify(folder, TRUSTED).is_right


@GARBAGE
@given(file=st.sampled_from((*SEGMENTS, EVENTS, MANIFEST)), data=st.data())
def test_any_edit_of_a_file_is_reported(tmp_path_factory, file, data):
    """A slice of it is replaced by any bytes."""
    folder = garbage_folder(tmp_path_factory, True)
    path = folder / file
    good = path.read_bytes()
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, len(good)))
    edited = good[:start] + data.draw(st.binary(max_size=20)) + good[end:]
    path.write_bytes(edited)
    assert verify(folder, TRUSTED).is_right == (edited == good)
    path.write_bytes(good)


# Keys


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def private_pem(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def spki(key) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


OTHER_KEYS = {
    # As short as it may be: it takes long to make.
    "RSA": rsa.generate_private_key(public_exponent=65537, key_size=1024),
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "X25519": x25519.X25519PrivateKey.generate(),
    "Ed448": ed448.Ed448PrivateKey.generate(),
}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_key_is_made_for_its_owner_only(tmp_path, umask):
    """Whatever the mask of the process; and nothing is left beside but the public half."""
    before = os.umask(umask)
    try:
        key = evidence.signing_key(tmp_path / "keys" / "signing.pem")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "keys" / "signing.pem") == 0o600
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == ["signing.pem", "signing.pub"]
    beside = evidence.public_key(tmp_path / "keys" / "signing.pub")
    assert evidence.key_id(beside) == evidence.key_id(key.public_key())


def test_a_key_is_the_same_the_second_time(tmp_path):
    """And neither of its files is written again."""
    path = tmp_path / "signing.pem"
    first = evidence.signing_key(path)
    before = [(file.name, file.read_bytes(), file.stat().st_mtime_ns) for file in sorted(tmp_path.iterdir())]
    second = evidence.signing_key(path)
    assert second.private_bytes_raw() == first.private_bytes_raw()
    assert before == [
        (file.name, file.read_bytes(), file.stat().st_mtime_ns) for file in sorted(tmp_path.iterdir())
    ]


def test_two_keys_are_two(tmp_path):
    one, other = (evidence.signing_key(tmp_path / name) for name in ("one.pem", "other.pem"))
    assert evidence.key_id(one.public_key()) != evidence.key_id(other.public_key())


def test_a_key_that_somebody_brought_is_taken(tmp_path):
    """As other tools write it."""
    (tmp_path / "signing.pem").write_bytes(private_pem(KEY))
    key = evidence.signing_key(tmp_path / "signing.pem")
    assert key.private_bytes_raw() == KEY.private_bytes_raw()


@pytest.mark.parametrize("key", OTHER_KEYS.values(), ids=OTHER_KEYS)
def test_another_kind_of_key_is_refused(tmp_path, key):
    """It is said which file, and it is left as it is."""
    path = tmp_path / "signing.pem"
    path.write_bytes(private_pem(key))
    with pytest.raises(ValueError, match=r"signing\.pem: it holds no Ed25519 key"):
        evidence.signing_key(path)
    assert path.read_bytes() == private_pem(key)


@pytest.mark.parametrize("key", OTHER_KEYS.values(), ids=OTHER_KEYS)
def test_another_kind_of_public_key_is_refused(tmp_path, key):
    path = tmp_path / "signing.pub"
    path.write_bytes(spki(key.public_key()))
    with pytest.raises(ValueError, match=r"signing\.pub: it holds no Ed25519 key"):
        evidence.public_key(path)


def test_half_a_key_is_refused_and_kept(tmp_path):
    """At every length: a key that is lost is not replaced by another unnoticed."""
    path, pem = tmp_path / "signing.pem", private_pem(KEY)
    for length in range(len(pem.rstrip()) - 1):
        path.write_bytes(pem[:length])
        with pytest.raises(ValueError):
            evidence.signing_key(path)
        assert path.read_bytes() == pem[:length]


def test_half_a_public_key_is_refused(tmp_path):
    path, pem = tmp_path / "signing.pub", evidence.public_pem(TRUSTED)
    for length in range(len(pem.rstrip()) - 1):
        path.write_bytes(pem[:length])
        with pytest.raises(ValueError):
            evidence.public_key(path)


@pytest.mark.parametrize("moment", ["written", "linked"])
def test_a_key_that_is_made_is_read_by_nobody_half(tmp_path, monkeypatch, moment):
    """While it is written it stands beside, for its owner only; a crash leaves no half of it in its place."""
    path, seen = tmp_path / "signing.pem", []
    name = {"written": "fsync", "linked": "link"}[moment]

    def crash(*_):
        seen.extend((each.name, mode_of(each)) for each in tmp_path.iterdir())
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, name, crash)
        with pytest.raises(KeyboardInterrupt):
            evidence.signing_key(path)
    ((beside, mode),) = seen
    assert (beside.startswith(".signing.pem."), mode) == (True, 0o600)
    assert list(tmp_path.iterdir()) == []
    assert evidence.signing_key(path).private_bytes_raw() == evidence.signing_key(path).private_bytes_raw()


def test_what_a_crash_left_beside_does_not_matter(tmp_path):
    """Half a key of another process: it is neither read nor written over."""
    beside = tmp_path / ".signing.pem.left"
    beside.write_bytes(private_pem(KEY)[:50])
    key = evidence.signing_key(tmp_path / "signing.pem")
    assert (tmp_path / "signing.pem").read_bytes() == private_pem(key)
    assert beside.read_bytes() == private_pem(KEY)[:50]


def test_two_that_make_a_key_at_once_agree(tmp_path, monkeypatch):
    """Another process makes the same file while this one is about to put its own there: the first wins."""
    path, link, others = tmp_path / "signing.pem", os.link, []

    def link_after_the_other(beside, target):
        monkeypatch.setattr(os, "link", link)
        others.append(evidence.signing_key(path))
        link(beside, target)

    monkeypatch.setattr(os, "link", link_after_the_other)
    key = evidence.signing_key(path)
    assert [key.private_bytes_raw()] == [other.private_bytes_raw() for other in others]
    assert mode_of(path) == 0o600
    assert sorted(each.name for each in tmp_path.iterdir()) == ["signing.pem", "signing.pub"]


def test_a_public_half_that_is_lost_is_written_again(tmp_path):
    """A crash came between the two files."""
    evidence.signing_key(tmp_path / "signing.pem")
    (tmp_path / "signing.pub").unlink()
    evidence.signing_key(tmp_path / "signing.pem")
    assert (tmp_path / "signing.pub").exists()


def test_a_key_with_a_password_is_refused(tmp_path):
    """Nobody is there to type it."""
    locked = KEY.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tmp_path / "signing.pem").write_bytes(locked)
    with pytest.raises(ValueError):
        evidence.signing_key(tmp_path / "signing.pem")


def with_an_unknown_kind(pem: bytes) -> bytes:
    """The same file for a kind of key that nobody knows."""
    head, *body, tail = pem.split(b"\n")[:-1]
    der = base64.b64decode(b"".join(body)).replace(b"\x06\x03\x2b\x65\x70", b"\x06\x03\x2b\x65\x7f")
    return b"\n".join((head, base64.b64encode(der), tail, b""))


@pytest.mark.parametrize("half", ["private", "public"])
def test_a_kind_of_key_that_nobody_knows_is_refused(tmp_path, half):
    path = tmp_path / "signing.pem"
    path.write_bytes(with_an_unknown_kind(private_pem(KEY) if half == "private" else spki(TRUSTED)))
    with pytest.raises(ValueError):
        evidence.signing_key(path) if half == "private" else evidence.public_key(path)


def test_one_half_is_not_the_other(tmp_path):
    """The files were confused."""
    evidence.signing_key(tmp_path / "signing.pem")
    with pytest.raises(ValueError):
        evidence.public_key(tmp_path / "signing.pem")
    with pytest.raises(ValueError):
        evidence.signing_key(tmp_path / "signing.pub")


def test_a_key_that_cannot_be_read_or_made_is_an_error_of_the_system(tmp_path):
    """A folder in its place, a file in the place of its folder, nothing there."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        evidence.signing_key(tmp_path)
    with pytest.raises(OSError):
        evidence.signing_key(tmp_path / "file" / "signing.pem")
    with pytest.raises(OSError):
        evidence.public_key(tmp_path / "signing.pub")


def test_the_name_of_a_key_does_not_change():
    """Folders of years ago name it: the hash of the 32 bytes, as RFC 8032 has them."""
    public = Ed25519PrivateKey.from_private_bytes(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    ).public_key()
    raw = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    assert evidence.key_id(public) == sha256(raw)[:16] == "21fe31dfa154a261"
    assert evidence.key_id(Ed25519PublicKey.from_public_bytes(raw)) == "21fe31dfa154a261"


def test_a_signature_is_the_same_every_time_and_fits():
    """Ed25519 draws no random number."""
    assert evidence.sign(b"manifest", KEY) == evidence.sign(b"manifest", KEY)
    told = json.loads(evidence.sign(b"manifest", KEY))
    assert sorted(told) == ["algorithm", "key_id", "public_key", "signature"]
    assert base64.b64decode(told["public_key"]) == TRUSTED.public_bytes_raw()
    TRUSTED.verify(base64.b64decode(told["signature"]), b"manifest")


# Canonical JSON


def test_canonical_json_does_not_change():
    """Hashes of years ago were made of it."""
    value = {"ф": "ü\u2028", "b": [1, 0.5, True, None], "a": {"z": '\n"\\/\x00', "Z": ""}, "😀": -0.0}
    assert canonical(value) == (
        '{"a":{"Z":"","z":"\\n\\"\\\\/\\u0000"},"b":[1,0.5,true,null],"ф":"ü\u2028","😀":-0.0}'.encode()
    )


@GARBAGE
@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5), st.randoms(use_true_random=False))
def test_canonical_json_does_not_depend_on_the_order_of_names(value, rng):
    """At any depth."""

    def shuffled(inner):
        match inner:
            case dict():
                return {name: shuffled(inner[name]) for name in rng.sample(list(inner), len(inner))}
            case list():
                return [shuffled(one) for one in inner]
        return inner

    assert canonical(shuffled(value)) == canonical(value)


@GARBAGE
@given(JSON)
def test_canonical_json_comes_back_as_it_is(value):
    """One line, and written again it is the same."""
    raw = canonical(value)
    assert b"\n" not in raw
    assert canonical(json.loads(raw)) == raw
