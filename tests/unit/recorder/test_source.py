"""Packets of one source become files: from a keyframe on, one codec a file, with what is missing told."""

import errno
import os
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from sfu.media.packet import build
from sfu.recorder.depacketize import Frame
from sfu.recorder.source import LONG_GAP_S, About, Source
from tests.unit.recorder.encoded import FORMATS, KEY_INTERVAL, SIZE, Played, Sender, pictures, play, sounds


def about(kind: str) -> About:
    return About(1, kind, "track_1", "alice_1", "alice", "Алиса", "camera", "h", 7)


@dataclass
class Bench:
    """A source, what it told, and how often it wanted a keyframe."""

    folder: Path
    kind: str = "video"
    told: list[tuple[str, dict]] = field(default_factory=list)
    wanted: int = 0

    def __post_init__(self) -> None:
        numbers = count(1)
        self.source = Source(
            self.folder,
            about(self.kind),
            FORMATS,
            lambda kind, codec: f"{next(numbers)}-{kind}-{codec}",
            lambda type_, data: self.told.append((type_, dict(data))),
            self.want,
        )

    def want(self) -> None:
        self.wanted += 1

    def receive(self, packets: list[bytes], at_ms: float = 0.0) -> None:
        for packet in packets:
            self.source.receive(packet, round(at_ms * 1000), at_ms / 1000)

    def send(self, sender: Sender, frames, offset_ms: float = 0.0) -> None:
        """Let all packets of some frames arrive, each frame at its time."""
        clock = 90 if self.kind == "video" else 48
        for frame in frames:
            self.receive(sender.send(frame), frame.timestamp / clock + offset_ms)

    def of(self, type_: str) -> list[dict]:
        return [data for name, data in self.told if name == type_]

    def files(self) -> dict[str, Played]:
        return {path.name: play(path.read_bytes()) for path in sorted(self.folder.iterdir())}


@pytest.fixture
def video(tmp_path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def audio(tmp_path) -> Bench:
    return Bench(tmp_path, "audio")


def later(frames, ticks: int) -> list[Frame]:
    return [Frame(frame.data, frame.timestamp + ticks, frame.is_key) for frame in frames]


def data_of(frames) -> list[bytes]:
    return [frame.data for frame in frames]


VP8 = pictures("vp8")


# One file


def test_pictures_become_a_file(video):
    """Every frame as it was sent; beginning and end are told."""
    video.send(Sender(96), VP8, offset_ms=1500)
    video.source.end()
    ((name, played),) = video.files().items()
    assert played.packets == data_of(VP8)
    assert played.decoded == len(VP8)
    assert video.wanted == 0
    assert [type_ for type_, _ in video.told] == ["segment_started", "segment_ended"]
    assert video.of("segment_started") == [
        {
            "file": name,
            "codec": "vp8",
            "start_ms": 1500,
            "rtp_start": 0,
            "size": SIZE,
            "clock_rate": 90_000,
            "channels": 1,
            "kind": "video",
            "track_id": "track_1",
            "participant_id": "alice_1",
            "user_id": "alice",
            "user_name": "Алиса",
            "source": "camera",
            "rid": "h",
            "ssrc": 7,
        }
    ]
    (ended,) = video.of("segment_ended")
    assert (ended["file"], ended["reason"], ended["frames"]) == (name, "source_ended", len(VP8))
    assert ended["bytes"] == (video.folder / name).stat().st_size
    assert (ended["duration_ms"], ended["repaired_times"]) == (round(VP8[-1].timestamp / 90), 0)
    assert (video.source.frames, video.source.lost_packets) == (len(VP8), 0)


def test_sound_becomes_a_file(audio):
    """No keyframe is needed."""
    audio.send(Sender(111), sounds())
    audio.source.end()
    (played,) = audio.files().values()
    assert played.packets == data_of(sounds())
    assert audio.of("segment_started")[0] | {"codec": "opus", "channels": 2} == audio.of("segment_started")[0]
    assert audio.wanted == 0


def test_plain_and_redundant_sound_become_one_file(audio):
    """A sender may change between them: what is written is the same."""
    plain, redundant = Sender(111), Sender(63)
    for index, frame in enumerate(sounds()):
        sender, other = (redundant, plain) if index // 20 % 2 else (plain, redundant)
        audio.send(sender, [frame])
        other.sequence = sender.sequence
    audio.source.end()
    (played,) = audio.files().values()
    assert played.packets == data_of(sounds())


def test_packets_in_any_order_become_the_same_file(video):
    """Late, and twice."""
    sender = Sender(96)
    packets = [packet for frame in VP8 for packet in sender.send(frame)]
    first, *rest = packets
    video.receive([first])
    for at in range(0, len(rest), 4):
        video.receive([*rest[at : at + 4][::-1], *rest[at : at + 2]])
    video.source.end()
    (played,) = video.files().values()
    assert played.packets == data_of(VP8)
    assert video.of("loss") == []


@pytest.mark.parametrize("offset", [0xFFFFFFFF - 90_000, 0xFFFFFFFF, 0x7FFFFFFF - 45_000])
def test_time_goes_on_beyond_32_bits(video, offset):
    """Nothing jumps, nothing begins anew."""
    video.send(Sender(96, offset=offset), VP8)
    video.source.end()
    (played,) = video.files().values()
    assert played.times == [round(frame.timestamp / 90) for frame in VP8]
    assert video.of("segment_ended")[0]["repaired_times"] == 0
    assert video.of("segment_started")[0]["rtp_start"] == offset


def test_the_beginning_of_a_file_in_the_time_of_its_sender_is_told(video):
    """Of each file, in 32 bits: reports of the sender speak of it."""
    sender = Sender(96, offset=0xFFFFFFFF - 90_000)
    video.send(sender, VP8[:30])
    video.send(sender, later(VP8[30:], LONG_GAP_S * 90_000))
    video.source.end()
    second = (0xFFFFFFFF - 90_000 + VP8[30].timestamp + LONG_GAP_S * 90_000) & 0xFFFFFFFF
    assert [told["rtp_start"] for told in video.of("segment_started")] == [0xFFFFFFFF - 90_000, second]


def test_what_is_no_packet_is_left_out(video):
    """Garbage, another payload type, a probe without payload."""
    sender = Sender(96)
    for frame in VP8:
        video.receive([b"", b"garbage", b"\x80" * 11, b"\xff" * 40])
        for payload_type in (96, 127):
            video.receive([build(payload_type, sender.sequence, frame.timestamp, 7, b"")])
            sender.sequence = (sender.sequence + 1) & 0xFFFF
        video.send(sender, [frame])
    video.source.end()
    (played,) = video.files().values()
    assert played.packets == data_of(VP8)


def test_a_source_of_nothing_is_no_file(video):
    video.source.tick(1.0)
    video.source.end()
    assert (video.told, video.files()) == ([], {})


# Keyframes


def test_a_file_begins_with_a_keyframe(video):
    """One is wanted until it comes; what came before it is told as such."""
    video.send(Sender(96), VP8[3:])
    assert video.wanted == KEY_INTERVAL - 3
    video.source.end()
    (played,) = video.files().values()
    assert played.packets == data_of(VP8[KEY_INTERVAL:])
    assert played.times[0] == 0
    assert [loss["frames_before_keyframe"] for loss in video.of("loss")] == [KEY_INTERVAL - 3]


def test_the_rest_of_a_picture_that_was_on_its_way_when_it_began_is_no_loss(video):
    """Nor when it goes on after a pause; another picture that is cut short is one."""
    sender, frames = Sender(96), VP8
    packets = sender.send(frames[0])
    assert len(packets) > 1
    video.receive(packets[1:])
    assert video.wanted == 1
    video.send(sender, later(frames, 90))
    video.source.tick(10.0)
    assert video.of("loss") == []
    video.source.pause()
    video.receive(sender.send(Frame(frames[0].data, 900_000, True))[1:], 11_000)
    video.send(sender, later(frames, 900_090))
    video.source.tick(20.0)
    assert video.of("loss") == []
    cut = sender.send(Frame(frames[0].data, 1_800_000, True))
    video.receive(cut[1:], 20_000)
    video.source.end()
    assert [(loss["packets"], loss["broken_frames"]) for loss in video.of("loss")] == [(1, 1)]
    played = [packet for played in video.files().values() for packet in played.packets]
    assert played == 2 * data_of(frames)


def test_a_broken_frame_wants_a_keyframe(video):
    """It is left out, and those behind it are written as they come."""
    sender = Sender(96)
    video.send(sender, VP8[:5])
    video.receive(sender.send(VP8[5])[:-1], 170)
    video.send(sender, VP8[6:])
    assert video.wanted >= 1
    video.source.end()
    (played,) = video.files().values()
    assert played.packets == data_of([*VP8[:5], *VP8[6:]])


def test_a_lost_packet_wants_a_keyframe(video):
    """When it has been waited for."""
    sender = Sender(96)
    video.send(sender, VP8[:5])
    sender.sequence += 1
    video.send(sender, VP8[5:20])
    assert (video.wanted, video.source.lost_packets) == (0, 0)
    video.source.tick(20.0)
    assert video.source.lost_packets == 1
    video.send(sender, VP8[20:])
    video.source.end()
    (played,) = video.files().values()
    assert played.packets == data_of(VP8)


# What begins another file


def test_another_codec_begins_another_file(video):
    """And the first again a third; each with a keyframe of its own."""
    h264 = pictures("h264")
    senders = {"vp8": Sender(96), "h264": Sender(102)}
    number = 100
    for part, (codec, frames) in enumerate([("vp8", VP8[:25]), ("h264", h264[8:35]), ("vp8", VP8[30:])]):
        senders[codec].sequence = number
        video.send(senders[codec], frames)
        number = senders[codec].sequence
        assert len(video.of("segment_started")) == part + 1
    video.source.end()
    files = video.files()
    assert list(files) == ["1-video-vp8", "2-video-h264", "3-video-vp8"]
    assert [played.decoded for played in files.values()] == [25, 25, 30]
    assert [played.times[0] for played in files.values()] == [0, 0, 0]
    assert [ended["reason"] for ended in video.of("segment_ended")] == [
        *("codec_changed", "codec_changed", "source_ended")
    ]
    assert video.wanted == 2


def test_a_long_gap_begins_another_file(video):
    """It too begins with a keyframe."""
    sender = Sender(96)
    video.send(sender, VP8[:25])
    video.send(sender, later(VP8[25:], LONG_GAP_S * 90_000), offset_ms=0)
    video.source.end()
    first, second = video.files().values()
    assert first.packets == data_of(VP8[:25])
    assert second.packets == data_of(VP8[30:])
    assert video.of("segment_ended")[0]["reason"] == "long_gap"
    assert video.of("segment_started")[1]["start_ms"] == LONG_GAP_S * 1000 + 1000
    assert video.wanted == 5


def test_a_long_gap_of_sound_begins_another_file(audio):
    """Nothing is left out."""
    sender = Sender(111)
    audio.send(sender, sounds()[:30])
    audio.send(sender, later(sounds()[30:], LONG_GAP_S * 48_000))
    audio.source.end()
    first, second = audio.files().values()
    assert first.packets + second.packets == data_of(sounds())
    assert second.times[0] == 0


def test_a_gap_that_is_not_so_long_stays_inside(audio):
    """It is as long in the file as it was."""
    sender = Sender(111)
    audio.send(sender, sounds()[:30])
    audio.send(sender, later(sounds()[30:], LONG_GAP_S * 48_000 - 960))
    audio.source.end()
    (played,) = audio.files().values()
    assert played.times[30] - played.times[29] == LONG_GAP_S * 1000


def test_another_size_stays_inside_and_is_told(video):
    """Once each time it changes."""
    sender, large = Sender(96), later(pictures("vp8", 20, (128, 96)), 60_000)
    video.send(sender, VP8[:20])
    video.send(sender, large)
    video.send(sender, later(VP8[:20], 120_000))
    video.source.end()
    ((name, played),) = video.files().items()
    assert (played.decoded, played.sizes) == (60, [SIZE, (128, 96)])
    assert video.of("size_changed") == [
        {"file": name, "from": SIZE, "to": (128, 96)},
        {"file": name, "from": (128, 96), "to": SIZE},
    ]


# Pauses


def test_nothing_of_a_pause_is_written(video):
    """What waited is forgotten, and pictures begin anew with a keyframe, in the same file."""
    sender = Sender(96)
    video.send(sender, VP8[:22])
    sender.sequence += 1  # one is missing: those behind it wait
    video.send(sender, VP8[22:25])
    video.source.pause()
    video.source.tick(60.0)
    assert video.source.frames == 22
    for frame in VP8[25:33]:
        sender.send(frame)
    video.send(sender, VP8[33:])
    assert video.wanted == 7
    video.source.end()
    (played,) = video.files().values()
    assert played.packets == data_of([*VP8[:22], *VP8[40:]])
    assert played.times[22] == round(VP8[40].timestamp / 90)
    assert [loss["packets"] for loss in video.of("loss")] == [0]


def test_half_a_frame_before_a_pause_is_not_joined_to_half_a_frame_behind_it(video):
    sender = Sender(96)
    video.send(sender, VP8[:10])
    first, *rest = sender.send(VP8[10])
    assert rest
    video.receive([first])
    video.source.pause()
    video.receive(rest)
    assert video.source.frames == 10
    video.send(sender, VP8[10:])
    video.source.end()
    (played,) = video.files().values()
    assert played.packets == data_of(VP8)


def test_sound_goes_on_behind_a_pause_at_once(audio):
    sender = Sender(111)
    audio.send(sender, sounds()[:30])
    audio.source.pause()
    for frame in sounds()[30:60]:
        sender.send(frame)
    audio.send(sender, sounds()[60:])
    audio.source.end()
    (played,) = audio.files().values()
    assert played.packets == data_of([*sounds()[:30], *sounds()[60:]])
    assert played.times[30] == 1200
    assert audio.of("loss") == []


# Losses


def test_losses_are_told_once_a_second(audio):
    """With the file that they are missing in; nothing is told where nothing is missing."""
    sender = Sender(111)
    audio.send(sender, sounds()[:10])
    audio.source.tick(1.0)
    sender.sequence += 3
    audio.send(sender, sounds()[10:12])
    sender.sequence += 2
    audio.send(sender, sounds()[12:14])
    audio.source.tick(10.0)
    audio.source.tick(11.0)
    name = audio.of("segment_started")[0]["file"]
    told = {"track_id": "track_1", "file": name, "broken_frames": 0, "frames_before_keyframe": 0}
    assert audio.of("loss") == [told | {"packets": 5}]
    sender.sequence += 1
    audio.send(sender, sounds()[14:])
    audio.source.end()
    assert audio.of("loss")[1:] == [told | {"packets": 1}]
    assert audio.source.lost_packets == 6


def test_losses_before_the_first_file_are_told_without_one(video):
    video.send(Sender(96), VP8[1:4])
    video.source.tick(1.0)
    assert video.of("loss") == [
        {
            "track_id": "track_1",
            "file": None,
            "packets": 0,
            "broken_frames": 0,
            "frames_before_keyframe": 3,
        }
    ]


def test_broken_frames_are_counted(video):
    """A frame is broken of which a packet is missing."""
    sender = Sender(96)
    video.send(sender, VP8[:10])
    first, _second, *rest = sender.send(VP8[10])
    video.receive([first, *rest], 333)
    video.send(sender, VP8[11:])
    video.source.tick(60.0)
    (loss,) = video.of("loss")
    assert (loss["packets"], loss["broken_frames"]) == (1, 1)
    assert video.wanted == 1
    video.source.end()
    (played,) = video.files().values()
    assert played.packets == data_of([*VP8[:10], *VP8[11:]])


# The disk


def test_a_disk_that_is_full_is_an_error_of_the_system(video, monkeypatch):
    """Of the packet that could not be written."""

    def write(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    sender = Sender(96)
    video.send(sender, VP8[:20])
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", write)
        with pytest.raises(OSError):
            video.send(sender, VP8[20:])


def test_the_beginning_of_a_file_is_told_before_it_is_there(video):
    """Nothing stands in the folder of which nothing was told, if it cannot be made."""
    os.rmdir(video.folder)
    with pytest.raises(OSError):
        video.send(Sender(96), VP8)
    assert [type_ for type_, _ in video.told] == ["segment_started"]
    video.folder.mkdir()
