"""One usable file of a recording: everybody on one picture, all voices in one track.

After the call and apart from the server: this decodes and encodes. Sound and picture of a participant meet by
his own clock (`timeline.py`); what is missing is silence and black.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sfu.recorder import evidence
from sfu.recorder.timeline import Line, map_files

SAMPLE_RATE = 48_000

# Sound is mixed in pieces of this length.
_PIECE = SAMPLE_RATE // 50

# Sound is moved by stretching up to this much of a piece; beyond this it is cut or padded.
_MAX_STRETCH, _MAX_DRIFT = 24, SAMPLE_RATE // 10

# A picture is shown for so long after the last one came; then its tile is black.
_SHOWN_S = 3.0

# Who speaks keeps the large picture for so long.
_SPEAKER_S = 1.5

_BACKGROUND, _TILE, _TEXT = (16, 16, 18), (38, 40, 46), (240, 240, 240)
_MARGIN = 4

FORMATS = {
    "webm": ("libvpx", "libopus", {"deadline": "realtime", "cpu-used": "4", "crf": "12"}),
    "mp4": ("libx264", "aac", {"preset": "veryfast", "crf": "23"}),
}

Picture = NDArray[np.uint8]


class CannotCompose(ValueError):
    """A recording of which no file can be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is wanted."""

    layout: str = "grid"
    format: str = "webm"
    width: int = 1280
    height: int = 720
    fps: int = 25


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    kind: str
    participant_id: str
    user_name: str
    source: str
    mapping: Line
    duration_s: float

    @property
    def tile(self) -> tuple[str, str]:
        return self.participant_id, "screen" if self.source.startswith("screen") else "camera"


class _Video:
    """The pictures of one file, as time goes on."""

    def __init__(self, file: _File) -> None:
        self.file = file
        self._frames = self._decode()
        self._next: tuple[float, VideoFrame] | None = next(self._frames, None)
        self.shown: tuple[float, VideoFrame] | None = None

    def _decode(self) -> Iterator[tuple[float, VideoFrame]]:
        with av.open(str(self.file.path)) as container:
            try:
                for frame in container.decode(video=0):
                    if frame.time is not None:
                        yield self.file.mapping.at(frame.time), frame
            except av.FFmpegError:
                return  # the file was cut off here

    def advance(self, at_s: float) -> VideoFrame | None:
        """Return what is seen at a time, going on only; None where there is nothing."""
        while self._next is not None and self._next[0] <= at_s:
            self.shown, self._next = self._next, next(self._frames, None)
        if self.shown is None or at_s - self.shown[0] > _SHOWN_S:
            return None
        return self.shown[1]


class _Audio:
    """The samples of one file where they belong in the mix."""

    def __init__(self, file: _File) -> None:
        self.file = file
        self._buffer: NDArray[np.float32] = np.zeros(0, np.float32)
        # Sample of the mix at which the buffer begins.
        self._at = 0
        self._frames = self._decode()
        self._is_over = False

    def _decode(self) -> Iterator[tuple[float, NDArray[np.float32]]]:
        resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        with av.open(str(self.file.path)) as container:
            try:
                for frame in container.decode(audio=0):
                    at = self.file.mapping.at(frame.time or 0.0)
                    for resampled in resampler.resample(frame):
                        yield at, resampled.to_ndarray().reshape(-1).astype(np.float32)
            except av.FFmpegError:
                return

    def _fill(self, until: int) -> None:
        """Decode until the buffer reaches a sample of the mix."""
        while not self._is_over and self._at + len(self._buffer) < until:
            found = next(self._frames, None)
            if found is None:
                self._is_over = True
                return
            at_s, samples = found
            self._append(round(at_s * SAMPLE_RATE), samples)

    def _append(self, at: int, samples: NDArray[np.float32]) -> None:
        end = self._at + len(self._buffer)
        drift = at - end
        if drift > (_MAX_DRIFT if len(self._buffer) else 0):
            self._buffer = np.concatenate([self._buffer, np.zeros(drift, np.float32)])
        elif drift < -_MAX_DRIFT:
            samples = samples[min(len(samples), -drift) :]
        elif drift:
            # A little longer or shorter, so that nobody hears it.
            length = len(samples) + max(-_MAX_STRETCH, min(_MAX_STRETCH, drift))
            places = np.linspace(0, len(samples) - 1, max(1, length))
            samples = np.interp(places, np.arange(len(samples)), samples).astype(np.float32)
        self._buffer = np.concatenate([self._buffer, samples])

    def take(self, at: int, count: int) -> NDArray[np.float32] | None:
        """Return samples of the mix from one on; None where there is silence."""
        self._fill(at + count)
        if at > self._at:
            self._buffer, self._at = self._buffer[at - self._at :], at
        taken = self._buffer[:count]
        if not len(taken):
            self._at = at + count if self._is_over else self._at
            return None
        self._buffer, self._at = self._buffer[count:], at + len(taken)
        return taken if len(taken) == count else np.pad(taken, (0, count - len(taken)))


class _Painter:
    """Puts tiles, names and the time onto pictures."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._labels: dict[tuple[str, int], Picture] = {}
        self._size = max(10, plan.height // 36)
        self._font = ImageFont.load_default(self._size)

    def blank(self) -> Picture:
        picture: Picture = np.empty((self._plan.height, self._plan.width, 3), np.uint8)
        picture[:] = _BACKGROUND
        return picture

    def tile(
        self, picture: Picture, box: tuple[int, int, int, int], frame: VideoFrame | None, name: str
    ) -> None:
        """Draw somebody into a box of (left, top, width, height)."""
        left, top, width, height = box
        picture[top : top + height, left : left + width] = _TILE
        if frame is not None:
            scale = min(width / frame.width, height / frame.height)
            wide, high = max(2, int(frame.width * scale) & ~1), max(2, int(frame.height * scale) & ~1)
            drawn = frame.reformat(width=wide, height=high, format="rgb24").to_ndarray()
            x, y = left + (width - wide) // 2, top + (height - high) // 2
            picture[y : y + high, x : x + wide] = drawn
        self.text(picture, name, left + _MARGIN, top + height - self._size * 2, width - 2 * _MARGIN)

    def text(self, picture: Picture, text: str, left: int, top: int, width: int) -> None:
        """Write a line, cut at a width."""
        label = self._labels.get((text, width))
        if label is None:
            if len(self._labels) > 1_000:
                self._labels.clear()
            label = self._labels[text, width] = self._label(text, width)
        high, wide = label.shape[:2]
        high, wide = min(high, picture.shape[0] - top), min(wide, picture.shape[1] - left)
        if high > 0 and wide > 0:
            picture[top : top + high, left : left + wide] = label[:high, :wide]

    def _label(self, text: str, width: int) -> Picture:
        box = self._font.getbbox(text or " ")
        image = Image.new("RGB", (max(2, min(width, int(box[2]) + 10)), self._size + 8), _BACKGROUND)
        ImageDraw.Draw(image).text((5, 2), text, fill=_TEXT, font=self._font)
        return np.asarray(image)


def grid(count: int, width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Return boxes of (left, top, width, height) for so many tiles of 16:9, as large as they can be."""
    if not count:
        return []
    columns = max(
        range(1, count + 1),
        key=lambda c: (min(width / c / 16, height / math.ceil(count / c) / 9), -c),
    )
    rows = math.ceil(count / columns)
    wide, high = width // columns, height // rows
    boxes = []
    for index in range(count):
        row, column = divmod(index, columns)
        in_row = min(columns, count - row * columns)
        left = (width - in_row * wide) // 2 + column * wide
        boxes.append((left + 2, row * high + 2, wide - 4, high - 4))
    return boxes


def speaker(count: int, width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Return boxes with a large one first and the others in a strip below."""
    if count <= 1:
        return grid(count, width, height)
    strip = height // 5
    boxes = grid(1, width, height - strip)
    wide = min(width // (count - 1), strip * 16 // 9)
    start = (width - wide * (count - 1)) // 2
    boxes += [(start + n * wide + 2, height - strip + 2, wide - 4, strip - 4) for n in range(count - 1)]
    return boxes


class _Stage:
    """Who is seen when."""

    def __init__(self, files: list[_File], events: list[dict[str, Any]], plan: Plan) -> None:
        self._files, self._plan = files, plan
        self._videos = {file.path.name: _Video(file) for file in files if file.kind == "video"}
        self._painter = _Painter(plan)
        self._speakers = [
            (event["t_ms"] / 1000, event["data"]["speakers"][0]["participant_id"])
            for event in events
            if event["type"] == "speakers" and event["data"]["speakers"]
        ]
        self._large: tuple[float, str] = (float("-inf"), "")

    def paint(self, at_s: float) -> Picture:
        """Return the picture at a time; times go on only."""
        frames: dict[tuple[str, str], VideoFrame | None] = {}
        names: dict[tuple[str, str], str] = {}
        for file in self._files:
            begins = file.mapping.start_s
            if not begins <= at_s <= begins + file.duration_s + _SHOWN_S:
                continue
            key = file.tile if file.kind == "video" else (file.participant_id, "camera")
            names[key] = file.user_name + (" (screen)" if key[1] == "screen" else "")
            frame = self._videos[file.path.name].advance(at_s) if file.kind == "video" else None
            frames[key] = frame or frames.get(key)
        picture = self._painter.blank()
        shape = speaker if self._plan.layout == "speaker" else grid
        order = self._order(list(frames), at_s)
        for key, box in zip(order, shape(len(order), self._plan.width, self._plan.height), strict=True):
            self._painter.tile(picture, box, frames[key], names[key])
        clock = f"{int(at_s) // 3600:d}:{int(at_s) // 60 % 60:02d}:{int(at_s) % 60:02d}"
        self._painter.text(picture, clock, _MARGIN, _MARGIN, self._plan.width)
        return picture

    def _order(self, keys: list[tuple[str, str]], at_s: float) -> list[tuple[str, str]]:
        """Return the tiles in order: screens first; in the speaker layout then who speaks."""
        ordered = sorted(keys, key=lambda key: (key[1] != "screen", key))
        if self._plan.layout != "speaker":
            return ordered
        while self._speakers and self._speakers[0][0] <= at_s:
            since, who = self._speakers.pop(0)
            if who == self._large[1] or since - self._large[0] >= _SPEAKER_S:
                self._large = (since, who)
        return sorted(ordered, key=lambda key: (key[1] != "screen", key[0] != self._large[1]))


def compose(folder: Path, target: Path, plan: Plan, progress: Callable[[float], None] | None = None) -> None:
    """Write one file of a recording; `progress` is told how much of it is done, 0 to 1.

    Raises:
        CannotCompose: there is nothing to make it of.
        OSError: a file cannot be read or written.

    """
    try:
        files, events = _understood(folder)
    except (ValueError, KeyError, TypeError, RecursionError, IndexError) as error:
        if isinstance(error, CannotCompose):
            raise
        raise CannotCompose(f"{folder}: its manifest or its log cannot be understood: {error}") from error
    end_s = max(file.mapping.at(file.duration_s) for file in files) + 0.2
    beside = target.with_name(f".{target.name}.new")
    try:
        _write(beside, files, events, plan, end_s, progress or (lambda _: None))
        beside.replace(target)
    except IndexError as error:  # a file without a stream of its kind
        raise CannotCompose(f"{folder}: a file does not hold what the manifest tells") from error
    finally:
        beside.unlink(missing_ok=True)


def _understood(folder: Path) -> tuple[list[_File], list[dict[str, Any]]]:
    """Return the files of a recording that hold something, and its events."""
    manifest, events = _load(folder)
    mappings = map_files(manifest["files"], events)
    if any(not evidence.is_file_name(f["name"]) for f in manifest["files"]):
        raise CannotCompose(f"{folder}: its manifest names files of elsewhere")
    files = [
        _File(
            folder / f["name"],
            f["kind"],
            f["participant_id"],
            f["user_name"] or f["user_id"],
            f["source"],
            mappings[f["name"]],
            _duration(folder / f["name"], f),
        )
        for f in manifest["files"]
        if f["bytes"] and not f.get("is_empty")
    ]
    if not files:
        raise CannotCompose(f"{folder}: nothing was recorded")
    return files, events


def _load(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    try:
        manifest = json.loads((folder / evidence.MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise CannotCompose(f"{folder}: it is no sealed recording") from error
    return manifest, evidence.read_chain((folder / evidence.EVENTS).read_bytes())[0]


def _duration(path: Path, told: dict[str, Any]) -> float:
    """Return the length of a file; one that was cut off does not tell, so its packets are looked at."""
    if told.get("duration_ms") is not None:
        return float(told["duration_ms"]) / 1000
    last = 0.0
    try:
        with av.open(str(path)) as container:
            for packet in container.demux():
                if packet.pts is not None and packet.time_base is not None:
                    last = max(last, float(packet.pts * packet.time_base))
    except av.FFmpegError:
        return last
    return last


def _write(
    path: Path,
    files: list[_File],
    events: list[dict[str, Any]],
    plan: Plan,
    end_s: float,
    progress: Callable[[float], None],
) -> None:
    video_codec, audio_codec, options = FORMATS[plan.format]
    stage = _Stage(files, events, plan)
    voices = [_Audio(file) for file in files if file.kind == "audio"]
    with av.open(str(path), "w", format=plan.format) as out:
        video: Any = out.add_stream(video_codec, rate=plan.fps, options=options)
        video.width, video.height, video.pix_fmt = plan.width, plan.height, "yuv420p"
        video.bit_rate = plan.width * plan.height * plan.fps // 12
        audio: Any = out.add_stream(audio_codec, rate=SAMPLE_RATE, layout="mono")
        pictures, samples = math.ceil(end_s * plan.fps), math.ceil(end_s * SAMPLE_RATE)
        written = 0
        for number in range(pictures):
            frame = VideoFrame.from_ndarray(stage.paint(number / plan.fps), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, plan.fps)
            out.mux(video.encode(frame))
            while written < min(samples, (number + 1) * SAMPLE_RATE // plan.fps):
                out.mux(audio.encode(_mixed(voices, written)))
                written += _PIECE
            progress((number + 1) / pictures)
        out.mux(video.encode(None))
        out.mux(audio.encode(None))


def _mixed(voices: list[_Audio], at: int) -> AudioFrame:
    mix: NDArray[np.float32] = np.zeros(_PIECE, np.float32)
    for voice in voices:
        taken = voice.take(at, _PIECE)
        if taken is not None:
            mix += taken
    # Several who speak at once are pressed together, not cut.
    frame = AudioFrame.from_ndarray(np.tanh(mix).reshape(1, -1), format="flt", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, at, Fraction(1, SAMPLE_RATE)
    return frame
