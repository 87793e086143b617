"""One file of one source: players read it, its hash is known as it grows, a crash leaves what was written."""

import contextlib
import errno
import os
import stat
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from sfu.recorder.depacketize import Frame
from sfu.recorder.evidence import sha256_of
from sfu.recorder.segment import Segment
from tests.unit.recorder.encoded import SIZE, pictures, play, sounds

CODECS = ["vp8", "vp9", "h264", "av1", "opus"]
CLOCK = {"opus": 48_000}

ALL_CODECS = pytest.mark.parametrize("codec", CODECS)


def frames_of(codec: str) -> tuple[Frame, ...]:
    return sounds() if codec == "opus" else pictures(codec)


def begin(folder: Path, codec: str, size: tuple[int, int] | None = SIZE, channels: int = 2) -> Segment:
    is_sound = codec == "opus"
    name = f"0001.{'mka' if is_sound else 'mkv'}"
    return Segment(folder / name, codec, CLOCK.get(codec, 90_000), channels, None if is_sound else size)


def file_of(folder: Path) -> bytes:
    (path,) = folder.iterdir()
    return path.read_bytes()


@ALL_CODECS
def test_a_player_finds_every_frame(tmp_path, codec):
    """As it was, at its time; the first at zero."""
    frames, segment = frames_of(codec), begin(tmp_path, codec)
    for frame in frames:
        segment.write(replace(frame, timestamp=frame.timestamp + (1 << 33)))
    segment.close()
    found = play(file_of(tmp_path))
    clock = CLOCK.get(codec, 90_000)
    assert found.decoded == len(found.packets) == segment.frames == len(frames)
    assert all(
        abs(at - frame.timestamp * 1000 / clock) <= 1 for at, frame in zip(found.times, frames, strict=True)
    )
    assert found.times[0] == 0
    assert segment.repaired_times == 0
    assert segment.duration_ms == round(frames[-1].timestamp * 1000 / clock)
    if codec != "opus":
        assert found.sizes == [SIZE]
    if codec in ("vp8", "vp9", "opus"):
        assert found.packets == [frame.data for frame in frames]


@ALL_CODECS
def test_the_hash_is_that_of_the_file_at_any_moment(tmp_path, codec):
    """While it is written, and when it is ended."""
    segment = begin(tmp_path, codec)
    for index, frame in enumerate(frames_of(codec)):
        segment.write(frame)
        if index % 9 == 0:
            assert segment.snapshot() == sha256_of(tmp_path / segment.name)
    before = segment.snapshot()[1]
    segment.close()
    assert segment.snapshot() == sha256_of(tmp_path / segment.name)
    assert segment.snapshot()[1] > before > 0


@ALL_CODECS
def test_what_is_on_the_disk_is_only_appended_to(tmp_path, codec):
    """What was told of it stays true."""
    segment, told = begin(tmp_path, codec), []
    for frame in frames_of(codec):
        segment.write(frame)
        told.append(segment.snapshot())
    segment.close()
    data = file_of(tmp_path)
    assert all(sha256(data[:size]).hexdigest() == digest for digest, size in set(told))


@ALL_CODECS
def test_a_process_that_is_killed_loses_less_than_a_second(tmp_path, codec):
    """At whichever frame: a player opens what is there."""
    segment, per_second = begin(tmp_path, codec), 50 if codec == "opus" else 30
    frames = frames_of(codec)
    for index, frame in enumerate(frames, 1):
        segment.write(frame)
        if index >= per_second and index % 7 == 0:
            found = play(file_of(tmp_path))
            assert index - len(found.packets) < per_second
            assert found.decoded == len(found.packets)
    assert segment.frames == len(frames)


@ALL_CODECS
def test_time_does_not_go_back(tmp_path, codec):
    """A frame that would is played with the one before it, and that is counted."""
    frames, segment = frames_of(codec), begin(tmp_path, codec)
    for index, frame in enumerate(frames):
        back = 50_000 if index in (5, 6, 20) else 0
        segment.write(replace(frame, timestamp=frame.timestamp - back))
    segment.close()
    times = play(file_of(tmp_path)).times
    assert times == sorted(times)
    assert len(times) == len(frames)
    assert segment.repaired_times == 3


def test_time_stands_still_where_frames_have_the_same(tmp_path):
    """Nothing is repaired."""
    segment = begin(tmp_path, "vp8")
    for frame in pictures("vp8")[:10]:
        segment.write(replace(frame, timestamp=90_000))
    segment.close()
    assert play(file_of(tmp_path)).times == [0] * 10
    assert (segment.repaired_times, segment.duration_ms) == (0, 0)


@pytest.mark.parametrize("codec", ["vp8", "vp9", "h264", "av1"])
def test_the_size_of_pictures_may_change_inside(tmp_path, codec):
    """Larger, and back again."""
    segment = begin(tmp_path, codec)
    parts = [pictures(codec, 20), pictures(codec, 20, (128, 96)), pictures(codec, 20)]
    for part, frames in enumerate(parts):
        for frame in frames:
            segment.write(replace(frame, timestamp=frame.timestamp + part * 60_000))
    segment.close()
    found = play(file_of(tmp_path))
    assert found.decoded == 60
    assert found.sizes == [SIZE, (128, 96)]


@pytest.mark.parametrize("codec", ["vp8", "vp9", "h264", "av1"])
def test_a_size_that_is_not_known_does_not_matter(tmp_path, codec):
    """Decoders go by the pictures."""
    segment = begin(tmp_path, codec, None)
    for frame in pictures(codec, 20):
        segment.write(frame)
    segment.close()
    assert play(file_of(tmp_path)).sizes == [SIZE]


@pytest.mark.parametrize("channels", [1, 2])
def test_sound_of_one_and_of_two_channels_is_played(tmp_path, channels):
    """Whatever stands in the frames, as RFC 7845 wants it."""
    segment = begin(tmp_path, "opus", channels=channels)
    for frame in sounds():
        segment.write(frame)
    segment.close()
    data = file_of(tmp_path)
    head = data.index(b"OpusHead")
    assert data[head + 9] == channels
    assert play(data).decoded == len(sounds())


@pytest.mark.parametrize(
    "bad", [b"garbage that is nothing", b"\xff" * 50, b"\x0a\xff\xff\xff", b"\x12\0\xff"]
)
def test_a_frame_that_is_none_is_told_and_the_file_goes_on(tmp_path, bad):
    """In the middle of others."""
    frames, segment = pictures("av1"), begin(tmp_path, "av1")
    for index, frame in enumerate(frames):
        segment.write(frame)
        if index in (5, 6, 40):
            with pytest.raises(ValueError):
                segment.write(replace(frame, data=bad))
    segment.close()
    assert segment.frames == len(frames)
    assert play(file_of(tmp_path)).decoded == len(frames)
    assert segment.snapshot() == sha256_of(tmp_path / segment.name)


@pytest.mark.parametrize("codec", ["vp8", "vp9", "h264", "opus"])
def test_what_no_decoder_takes_does_not_end_the_file(tmp_path, codec):
    """Garbage in the middle is a frame like others: nothing is decoded when it is written."""
    frames, segment = frames_of(codec), begin(tmp_path, codec)
    for index, frame in enumerate(frames):
        segment.write(replace(frame, data=b"garbage") if index == 7 else frame)
    segment.close()
    assert segment.frames == len(frames)


def full_after(monkeypatch, size: int) -> None:
    """Let the disk take so many bytes and no more."""
    write, taken = os.write, 0

    def write_or_not(descriptor, data):
        nonlocal taken
        if taken + len(data) > size:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken += len(data)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", write_or_not)


@ALL_CODECS
def test_a_disk_that_is_full_is_an_error_of_the_system(tmp_path, monkeypatch, codec):
    """What was written before stays, and can be played."""
    frames, segment = frames_of(codec), begin(tmp_path, codec)
    for frame in frames[:-20]:
        segment.write(frame)
    before, (digest, size) = file_of(tmp_path), segment.snapshot()
    full_after(monkeypatch, 0)
    with pytest.raises(OSError) as raised:
        for frame in [replace(frame, timestamp=frame.timestamp + 180_000) for frame in frames[-20:]]:
            segment.write(frame)
    assert raised.value.errno == errno.ENOSPC
    assert file_of(tmp_path) == before
    assert segment.snapshot() == (digest, size) == (sha256(before).hexdigest(), len(before))
    assert play(before).decoded > 0
    with contextlib.suppress(Exception):
        segment.close()
    assert not segment.is_open


@ALL_CODECS
def test_a_disk_that_is_full_before_the_first_byte_is_an_error_of_the_system(tmp_path, monkeypatch, codec):
    """The file is there and empty."""
    full_after(monkeypatch, 0)
    segment = begin(tmp_path, codec)
    with pytest.raises(OSError) as raised:
        segment.write(frames_of(codec)[0])
    assert raised.value.errno == errno.ENOSPC
    assert segment.frames == 0
    with contextlib.suppress(Exception):
        segment.close()
    assert (file_of(tmp_path), segment.snapshot()) == (b"", (sha256().hexdigest(), 0))


def test_a_disk_that_is_full_at_the_end_is_an_error_of_the_system(tmp_path, monkeypatch):
    """The last cluster does not fit: the file is ended all the same."""
    segment = begin(tmp_path, "vp8")
    for frame in pictures("vp8"):
        segment.write(frame)
    full_after(monkeypatch, 0)
    with pytest.raises(OSError):
        segment.close()
    assert not segment.is_open
    segment.close()


def test_a_disk_that_takes_little_at_a_time_takes_all(tmp_path, monkeypatch):
    """A write may take less than it is given."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:100]))
    segment = begin(tmp_path, "vp8")
    for frame in pictures("vp8"):
        segment.write(frame)
    segment.close()
    assert segment.snapshot() == sha256_of(tmp_path / segment.name)
    assert play(file_of(tmp_path)).decoded == len(pictures("vp8"))


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    """And one that cannot be made is an error."""
    (tmp_path / "0001.mkv").write_bytes(b"before")
    with pytest.raises(FileExistsError):
        begin(tmp_path, "vp8")
    assert file_of(tmp_path) == b"before"
    with pytest.raises(FileNotFoundError):
        begin(tmp_path / "nowhere", "vp8")


def test_a_file_of_no_frames_is_empty(tmp_path):
    """It can be ended, once and again."""
    segment = begin(tmp_path, "vp8")
    segment.close()
    segment.close()
    assert not segment.is_open
    assert segment.snapshot() == sha256_of(tmp_path / segment.name) == (sha256().hexdigest(), 0)
    assert segment.duration_ms == 0


def test_others_do_not_read_the_file(tmp_path):
    """Its owner and its group do, whatever the mask allows."""
    before = os.umask(0)
    try:
        segment = begin(tmp_path, "vp8")
    finally:
        os.umask(before)
    segment.close()
    assert stat.S_IMODE((tmp_path / segment.name).stat().st_mode) == 0o640


def test_the_other_descriptor_lives_longer(tmp_path):
    """Whoever waits for the disk is not disturbed by the end of the file."""
    segment = begin(tmp_path, "vp8")
    segment.write(pictures("vp8")[0])
    other = segment.descriptor()
    segment.close()
    os.fdatasync(other)
    assert os.fstat(other).st_size == segment.snapshot()[1]
    os.close(other)
