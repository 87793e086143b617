"""One file of a recording: flash and beep of each participant at one moment, whatever the clocks said."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sfu.media.packet import build
from sfu.recorder.compose import CannotCompose, Plan, compose, grid, speaker
from sfu.recorder.recording import Recording

# Each so many seconds a flash and a beep, of so many milliseconds.
EVERY_S, LENGTH_MS = 5, 100
WIDTH, HEIGHT, FPS = 160, 120, 20
SMALL = Plan(width=320, height=180, fps=50)


def pictures(seconds):
    """VP8 frames, white while it flashes and black else."""
    encoder = av.CodecContext.create("libvpx", "w")
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    encoder.time_base = Fraction(1, FPS)
    encoder.options = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
    for number in range(seconds * FPS):
        is_white = number % (EVERY_S * FPS) < LENGTH_MS * FPS // 1000 and number >= FPS
        image = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
        image[:HEIGHT] = 235 if is_white else 16
        frame = av.VideoFrame.from_ndarray(image, format="yuv420p")
        frame.pts, frame.time_base = number, encoder.time_base
        for packet in encoder.encode(frame):
            yield number / FPS, bytes(packet)


def sounds(seconds):
    """Opus packets of 20 ms: a tone while it beeps and silence else."""
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 48_000, "mono", "s16"
    encoder.open()
    ramp = np.arange(960)
    for number in range(seconds * 50):
        is_loud = number % (EVERY_S * 50) < LENGTH_MS // 20 and number >= 50
        wave = (np.sin(2 * np.pi * 1000 * ramp / 48_000) * 12_000 * is_loud).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 48_000, number * 960
        for packet in encoder.encode(frame):
            yield number * 0.02, bytes(packet)


class Sender:
    """A participant whose clocks go as they like: packets in order of their arrival."""

    def __init__(self, number, *, skew, video_delay_s):
        self.number, self._skew, self._video_delay_s = number, skew, video_delay_s
        # What its own clock shows when the recording begins; nobody knows but by its reports.
        self._ntp_at_start = 3_900_000_000.0 + 1000 * number
        self._rtp_at_start = {"video": 4_294_900_000, "audio": 77_777}
        self._sequence = {"video": 65_000, "audio": 10}

    def rtp(self, kind, at_s):
        rate = 90_000 * (1 + self._skew) if kind == "video" else 48_000
        return (self._rtp_at_start[kind] + round(at_s * rate)) & 0xFFFFFFFF

    def source(self, kind):
        return self.number * 2 + (kind == "audio") + 1

    def packets(self, seconds, chance):
        """(when it arrives, kind, RTP packet), in order."""
        found = []
        for kind, media in (("video", pictures(seconds)), ("audio", sounds(seconds))):
            path_s = 0.05 + (self._video_delay_s if kind == "video" else 0.0)
            for at_s, data in media:
                parts = [data[at : at + 1000] for at in range(0, len(data), 1000)]
                for index, part in enumerate(parts):
                    payload = (b"\x10" if index == 0 else b"\x00") + part if kind == "video" else part
                    sequence = self._sequence[kind] = (self._sequence[kind] + 1) & 0xFFFF
                    payload_type = 96 if kind == "video" else 111
                    packet = build(
                        payload_type,
                        sequence,
                        self.rtp(kind, at_s),
                        self.source(kind),
                        payload,
                        marker=index == len(parts) - 1,
                    )
                    found.append((at_s + path_s + chance.random() * 0.02, kind, packet))
        found.sort(key=lambda entry: entry[0])
        return found

    def report(self, kind, at_s):
        """What its sender report says, as the log keeps it."""
        path_s = 0.05 + (self._video_delay_s if kind == "video" else 0.0)
        return {
            "track_id": f"trk_{self.source(kind)}",
            "ssrc": self.source(kind),
            "ntp": int((self._ntp_at_start + at_s) * 2**32),
            "rtp_timestamp": self.rtp(kind, at_s),
            "heard_ms": round((at_s + path_s) * 1000),
        }


def record(folder, senders, seconds):
    """Write a recording of what these senders send."""
    chance = np.random.default_rng(7)
    about = {
        "recording_id": folder.name,
        "call_id": "call_1",
        "room": "r",
        "started_at": "2026-01-01T00:00:00Z",
    }
    recording = Recording(folder, about, Ed25519PrivateKey.generate(), lambda _: None)
    for sender in senders:
        for kind in ("video", "audio"):
            formats = {"96": ["vp8", 90_000, 1]} if kind == "video" else {"111": ["opus", 48_000, 2]}
            whose = {
                "kind": kind,
                "track_id": f"trk_{sender.source(kind)}",
                "participant_id": f"par_{sender.number}",
                "user_id": f"user{sender.number}",
                "user_name": f"User {sender.number}",
                "source": "camera" if kind == "video" else "microphone",
                "rid": "",
                "ssrc": sender.source(kind),
            }
            recording.add_source(sender.source(kind), whose, formats)
    entries = [(at, s, kind, packet) for s in senders for at, kind, packet in s.packets(seconds, chance)]
    entries.sort(key=lambda entry: entry[0])
    told = 0
    for at_s, sender, kind, packet in entries:
        recording.media(sender.source(kind), packet, round(at_s * 1e6), at_s)
        if at_s >= told:
            for each in senders:
                for which in ("video", "audio"):
                    recording.event("sender_report", each.report(which, told), round(at_s * 1000))
            told += 2
    recording.close("call_ended", {}, seconds * 1000)


def flashes(path, left, right):
    """When the part of the picture between two columns turns bright."""
    found, was_bright = [], False
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            part = frame.to_ndarray(format="gray8")[40:100, left:right]
            is_bright = part.mean() > 128
            if is_bright and not was_bright:
                found.append(frame.time)
            was_bright = is_bright
    return found


def beeps(path):
    """When the sound becomes loud."""
    samples = []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            samples.append(frame.to_ndarray().reshape(-1).astype(np.float32))
    wave = np.abs(np.concatenate(samples))
    loud = wave[: len(wave) // 48 * 48].reshape(-1, 48).max(axis=1) > 0.05  # by the millisecond
    found, quiet = [], 1000
    for index, is_loud in enumerate(loud):
        if is_loud and quiet > 500:
            found.append(index / 1000)
        quiet = 0 if is_loud else quiet + 1
    return found


def matched(flash_times, beep_times):
    """How far each beep is from the flash beside it, in milliseconds."""
    return [1000 * min((beep - flash for flash in flash_times), key=abs) for beep in beep_times]


@pytest.mark.parametrize(("seconds", "skew"), [(40, -800e-6)])
def test_lips_and_voice_meet_whatever_the_clocks(tmp_path, seconds, skew):
    """The video's clock goes wrong against the audio's, and pictures take 180 ms longer to arrive.

    800 ppm over a minute is what 200 ppm is over four.
    """
    record(tmp_path / "rec_1", [Sender(0, skew=skew, video_delay_s=0.18)], seconds)
    compose(tmp_path / "rec_1", tmp_path / "out.webm", SMALL)
    flash_times, beep_times = flashes(tmp_path / "out.webm", 40, 280), beeps(tmp_path / "out.webm")
    apart = matched(flash_times, beep_times)
    print(f"{len(apart)} beeps, apart from their flashes by {min(apart):.0f} to {max(apart):.0f} ms")
    assert len(flash_times) == len(beep_times) == seconds // EVERY_S - 1
    assert max(map(abs, apart)) <= 40


def test_without_reports_the_arrival_counts(tmp_path):
    """A recording that is too short for them, or of a sender that sends none, still is composed."""
    sender = Sender(0, skew=0.0, video_delay_s=0.0)
    sender.report = lambda kind, at_s: {**Sender.report(sender, kind, at_s), "ssrc": 999}
    record(tmp_path / "rec_1", [sender], 11)
    compose(tmp_path / "rec_1", tmp_path / "out.webm", SMALL)
    apart = matched(flashes(tmp_path / "out.webm", 40, 280), beeps(tmp_path / "out.webm"))
    assert len(apart) == 2
    assert max(map(abs, apart)) <= 60


@pytest.mark.parametrize(("layout", "format_"), [("grid", "webm"), ("speaker", "mp4")])
def test_two_are_seen_and_heard(tmp_path, layout, format_):
    record(tmp_path / "rec_1", [Sender(n, skew=0.0, video_delay_s=0.0) for n in (0, 1)], 8)
    told = []
    plan = Plan(layout=layout, format=format_, width=320, height=180, fps=10)
    compose(tmp_path / "rec_1", tmp_path / f"out.{format_}", plan, told.append)
    assert told[-1] == 1.0
    assert told == sorted(told)
    with av.open(str(tmp_path / f"out.{format_}")) as container:
        frames = list(container.decode(video=0))
        assert (frames[0].width, frames[0].height) == (320, 180)
        assert 7.5 <= len(frames) / 10 <= 9
    assert not list(tmp_path.glob(".*.new"))


def test_a_gap_is_silence_and_black(tmp_path):
    """Who was cut off for a while is not shown with his last picture for ever, nor out of step afterwards."""
    sender = Sender(0, skew=0.0, video_delay_s=0.0)
    whole = sender.packets
    sender.packets = lambda seconds, chance: [p for p in whole(seconds, chance) if not 6 < p[0] < 13]
    record(tmp_path / "rec_1", [sender], 20)
    compose(tmp_path / "rec_1", tmp_path / "out.webm", SMALL)
    apart = matched(flashes(tmp_path / "out.webm", 40, 280), beeps(tmp_path / "out.webm"))
    assert max(map(abs, apart)) <= 40
    with av.open(str(tmp_path / "out.webm")) as container:
        tiles = {
            round(f.time, 1): f.to_ndarray(format="gray8")[60:100, 60:260].mean()
            for f in container.decode(video=0)
        }
    assert tiles[8.0] < 25  # the last picture, black
    assert tiles[11.0] > 30  # the empty tile


def test_what_is_no_sealed_recording_is_refused(tmp_path):
    with pytest.raises(CannotCompose):
        compose(tmp_path, tmp_path / "out.webm", SMALL)
    (tmp_path / "manifest.json").write_text(json.dumps({"files": []}))
    (tmp_path / "events.jsonl").write_text("")
    with pytest.raises(CannotCompose):
        compose(tmp_path, tmp_path / "out.webm", SMALL)
    assert not (tmp_path / "out.webm").exists()


@pytest.mark.parametrize("shape", [grid, speaker])
@pytest.mark.parametrize("count", range(17))
def test_tiles_are_inside_and_apart(shape, count):
    boxes = shape(count, 1280, 720)
    assert len(boxes) == count
    for index, (left, top, width, height) in enumerate(boxes):
        assert left >= 0
        assert top >= 0
        assert width > 0
        assert height > 0
        assert left + width <= 1280
        assert top + height <= 720
        for other_left, other_top, other_width, other_height in boxes[:index]:
            is_apart = (
                left >= other_left + other_width
                or other_left >= left + width
                or top >= other_top + other_height
                or other_top >= top + height
            )
            assert is_apart
