"""`sfu recordings` as whoever keeps recordings meets it: in a process of its own, without a server."""

import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from sfu.__main__ import app
from sfu.media.packet import build
from sfu.recorder.evidence import EVENTS, MANIFEST, SIGNATURE, key_id, public_pem, verify
from sfu.recorder.recording import Recording

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))

VIDEO, AUDIO = "0001-video-vp8.mkv", "0002-audio-opus.mka"
SMALL = ("--size", "160x90", "--fps", "5")


def sfu(*arguments: str | Path) -> tuple[int, str, str]:
    """Run `sfu recordings` to its end; return its code, its output and what it complained of."""
    clean = {name: None for name in os.environ if name.startswith("SFU_")}
    done = CliRunner().invoke(app, ["recordings", *map(str, arguments)], env={**clean, "COLUMNS": "200"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done.exit_code, done.stdout, done.stderr


def is_refusal(result: tuple[int, str, str], *words: str) -> None:
    """Exit code 2, nothing on the output, one clear sentence with these words."""
    code, out, err = result
    assert (code, out) == (2, ""), result
    assert err.startswith("sfu: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


def pictures():
    """(second, VP8 frame): ten a second."""
    encoder = av.CodecContext.create("libvpx", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 64, 48, "yuv420p"
    encoder.time_base = Fraction(1, 10)
    encoder.options = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
    for number in range(20):
        image = np.full((72, 64), 128, np.uint8)
        image[:48] = 10 * number
        frame = av.VideoFrame.from_ndarray(image, format="yuv420p")
        frame.pts, frame.time_base = number, encoder.time_base
        for packet in encoder.encode(frame):
            yield number / 10, bytes(packet)


def sounds():
    """(second, Opus packet): fifty a second."""
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 48_000, "mono", "s16"
    encoder.open()
    for number in range(100):
        wave = (np.sin(np.arange(960) / 7) * 9_000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 48_000, number * 960
        for packet in encoder.encode(frame):
            yield number * 0.02, bytes(packet)


def write(folder: Path) -> Recording:
    """Write a recording of two seconds of a picture and a sound, and do not end it."""
    about = {
        "recording_id": folder.name,
        "call_id": "call_1",
        "room": "r",
        "started_at": "2026-01-01T00:00:00Z",
    }
    recording = Recording(folder, about, KEY, lambda _: None)
    whose = {"participant_id": "par_1", "user_id": "ada", "user_name": "Ada", "rid": ""}
    video = {"kind": "video", "track_id": "trk_1", "source": "camera", "ssrc": 1}
    audio = {"kind": "audio", "track_id": "trk_2", "source": "microphone", "ssrc": 2}
    recording.add_source(1, whose | video, {"96": ["vp8", 90_000, 1]})
    recording.add_source(2, whose | audio, {"111": ["opus", 48_000, 2]})
    for sequence, (at_s, data) in enumerate(pictures()):
        packet = build(96, sequence, round(at_s * 90_000), 1, b"\x10" + data, marker=1)
        recording.media(1, packet, round(at_s * 1e6), at_s)
    for sequence, (at_s, data) in enumerate(sounds()):
        packet = build(111, sequence, round(at_s * 48_000), 2, data)
        recording.media(2, packet, round(at_s * 1e6), at_s)
    return recording


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A folder with a recording that is sealed, and one that is not."""
    root = tmp_path_factory.mktemp("kept")
    write(root / "rec_1").close("call_ended", {}, 2000)
    write(root / "rec_9").abandon()
    return root


@pytest.fixture
def folder(kept, tmp_path) -> Path:
    """A recording that is sealed, for one test."""
    return Path(shutil.copytree(kept / "rec_1", tmp_path / "rec_1"))


@pytest.fixture
def unsealed(kept, tmp_path) -> Path:
    return Path(shutil.copytree(kept / "rec_9", tmp_path / "rec_9"))


def key_file(path: Path, key: Ed25519PrivateKey) -> Path:
    path.write_bytes(public_pem(key.public_key()))
    return path


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


# verify


def test_a_whole_recording_is_right(folder):
    """Who signed it is told, and that anybody could have."""
    code, out, err = sfu("verify", folder)
    assert (code, err) == (0, "")
    signer = key_id(KEY.public_key())
    assert out == (
        f"{folder}: right, signed by {signer} (no --key: anybody could have), ended by call_ended\n"
    )


def test_by_the_right_key_it_is_right(folder, tmp_path):
    """Nobody else could have."""
    code, out, _ = sfu("verify", folder, "--key", key_file(tmp_path / "signing.pub", KEY))
    assert (code, out) == (
        0,
        f"{folder}: right, signed by {key_id(KEY.public_key())}, ended by call_ended\n",
    )


def test_by_another_key_it_is_not(folder, tmp_path):
    code, out, _ = sfu("verify", folder, "--key", key_file(tmp_path / "other.pub", OTHER))
    assert code == 1
    assert f"{folder}: NOT RIGHT" in out
    ours, theirs = key_id(KEY.public_key()), key_id(OTHER.public_key())
    assert f"  {SIGNATURE}: signed by the key {ours}, not by {theirs}" in out.splitlines()


@pytest.mark.parametrize("content", [None, b"no key"])
def test_what_is_no_key_is_refused(folder, tmp_path, content):
    """It is no word about the recording."""
    path = tmp_path / "signing.pub"
    if content is not None:
        path.write_bytes(content)
    result = sfu("verify", folder, "--key", path)
    assert result[0] == 2
    assert result[1] == ""
    assert result[2].startswith("sfu: ")


@pytest.mark.parametrize("name", [VIDEO, EVENTS])
def test_the_file_that_was_changed_is_named(folder, name):
    """And no other."""
    flip(folder / name, 200)
    code, out, _ = sfu("verify", folder)
    first, *lines = out.splitlines()
    assert (code, first) == (1, f"{folder}: NOT RIGHT")
    assert lines
    assert {line.split(":")[0].strip() for line in lines} == {name}


def test_one_json_object_a_recording_is_printed(folder, unsealed, tmp_path):
    """Of what is right and of what is not."""
    shutil.copytree(folder, tmp_path / "rec_2")
    (tmp_path / "rec_2" / AUDIO).unlink()
    (tmp_path / "rec_2" / "a\x1b[31m\n").touch()
    code, out, err = sfu("verify", tmp_path, "--json", "--key", key_file(tmp_path / "signing.pub", KEY))
    assert (code, err) == (1, "")
    one, two, nine = map(json.loads, out.splitlines())
    assert one == {
        "folder": str(folder),
        "recording_id": "rec_1",
        "is_right": True,
        "end_reason": "call_ended",
        "key_id": key_id(KEY.public_key()),
        "stamped": "",
        "problems": [],
    }
    assert (two["recording_id"], two["is_right"]) == ("rec_1", False)
    assert two["problems"] == [
        {"file": AUDIO, "what": "it is missing"},
        {"file": "a\x1b[31m\n", "what": "it does not belong to the recording"},
    ]
    assert (nine["recording_id"], nine["is_right"]) == ("rec_9", False)
    assert nine["problems"] == [{"file": MANIFEST, "what": "it is missing: the recording was not sealed"}]


def test_each_recording_of_a_folder_is_told(folder, tmp_path):
    """In order; what else is there does not matter. One that is wrong is enough."""
    for number in (2, 3):
        shutil.copytree(folder, tmp_path / f"rec_{number}")
    (tmp_path / "notes").mkdir()
    (tmp_path / "last.json").touch()
    code, out, _ = sfu("verify", tmp_path)
    assert code == 0
    names = [str(tmp_path / f"rec_{number}") for number in (1, 2, 3)]
    assert [line.split(": right")[0] for line in out.splitlines()] == names
    flip(tmp_path / "rec_2" / AUDIO, -1)
    code, out, _ = sfu("verify", tmp_path / "rec_3", tmp_path)
    assert code == 1
    heads = [line for line in out.splitlines() if not line.startswith("  ")]
    assert ["NOT RIGHT" in line for line in heads] == [False, False, True, False]
    assert f"  {AUDIO}: its content was changed" in out.splitlines()


@pytest.mark.parametrize("kind", ["empty", "missing"])
def test_where_there_is_no_recording_that_is_told(folder, tmp_path, kind):
    """Also beside one that is: nobody takes it for right."""
    path = tmp_path / "nothing"
    if kind == "empty":
        path.mkdir()
    is_refusal(sfu("verify", folder, path), str(path), "there is no recording")


def test_the_names_of_strange_files_are_printed_escaped(folder):
    """Whatever a terminal would make of them."""
    for name in ("a\x1b[31mred", "b\nrec_1: right", "ж", "c\udcff"):
        (folder / name).touch()
    code, out, _ = sfu("verify", folder)
    assert code == 1
    assert out.isascii()
    assert "\x1b" not in out
    belongs_not = "it does not belong to the recording"
    assert out.splitlines() == [
        f"{folder}: NOT RIGHT",
        rf"  a\x1b[31mred: {belongs_not}",
        rf"  b\nrec_1: right: {belongs_not}",
        rf"  c\udcff: {belongs_not}",
        rf"  \u0436: {belongs_not}",
    ]


# compose


@pytest.mark.parametrize(
    ("options", "name", "codecs"),
    [
        ((), "rec_1.webm", ("vp8", "opus")),
        (("--layout", "speaker", "--format", "mp4"), "rec_1.mp4", ("h264", "aac")),
    ],
)
def test_one_file_is_made_that_players_open(folder, tmp_path, options, name, codecs):
    """Beside the folder, which stays as it was; its name and its size are told."""
    code, out, err = sfu("compose", folder, *SMALL, *options)
    assert (code, out) == (0, "")
    path = tmp_path / name
    assert err.replace("\n", "") == f"{path}: {path.stat().st_size} bytes"
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name.removeprefix("lib"), audio.codec_context.name) == codecs
        assert (video.width, video.height) == (160, 90)
        frames = list(container.decode(video=0))
    assert 9 <= len(frames) <= 13
    with av.open(str(path)) as container:
        wave = np.concatenate([frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)])
    assert abs(wave).max() > 0.05
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["rec_1", name]
    assert verify(folder, KEY.public_key()).is_right


def test_the_file_is_made_where_it_is_wanted(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "call.webm").write_bytes(b"before")
    code, _, _ = sfu("compose", folder, *SMALL, "-o", tmp_path / "elsewhere" / "call.webm")
    assert code == 0
    with av.open(str(tmp_path / "elsewhere" / "call.webm")) as container:
        assert len(container.streams) == 2
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["call.webm"]


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--layout", "circle", "grid"),
        ("--format", "avi", "webm"),
        ("--size", "big", "1280x720"),
        ("--size", "161x90", "even"),
    ],
)
def test_an_option_that_is_none_is_named(folder, tmp_path, option, value, word):
    """Nothing is made."""
    is_refusal(sfu("compose", folder, f"{option}={value}"), option, value, word)
    assert [path.name for path in tmp_path.iterdir()] == ["rec_1"]


def test_so_many_pictures_a_second_there_are_not(folder, tmp_path):
    code, out, err = sfu("compose", folder, "--fps", "0")
    assert (code, out) == (2, "")
    assert "--fps" in err
    assert [path.name for path in tmp_path.iterdir()] == ["rec_1"]


def test_one_that_is_not_sealed_is_refused(unsealed, tmp_path):
    is_refusal(sfu("compose", unsealed, *SMALL), str(unsealed), "sealed")
    assert [path.name for path in tmp_path.iterdir()] == ["rec_9"]


@pytest.mark.parametrize("damage", ["video", "log", "manifest"])
def test_one_of_which_a_part_is_gone_leaves_no_file(folder, tmp_path, damage):
    """Nor half a one."""
    if damage == "manifest":
        (folder / MANIFEST).write_bytes(b"{")
    else:
        (folder / {"video": VIDEO, "log": EVENTS}[damage]).unlink()
    code, out, err = sfu("compose", folder, *SMALL)
    assert (code, out) == (2, "")
    assert err.startswith("sfu: ")
    assert [path.name for path in tmp_path.iterdir()] == ["rec_1"]


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_where_no_file_can_be_made_none_is(folder, tmp_path, kind):
    """Neither there nor beside it."""
    output = tmp_path / "there"
    if kind == "folder":
        output.mkdir()
    else:
        output = output / "call.webm"
    code, out, err = sfu("compose", folder, *SMALL, "-o", output)
    assert (code, out) == (2, "")
    assert err.startswith("sfu: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rec_1", *(["there"] * (kind == "folder"))]
