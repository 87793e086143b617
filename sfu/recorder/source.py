"""One source of a recording, from its packets to the files it becomes.

A source is one stream of one participant under one SSRC. A new file begins with another codec and after a
gap of five minutes; a change of the picture's size stays inside.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfu.media.packet import RtpPacket, timestamp_delta
from sfu.recorder.depacketize import (
    AUDIO_CODECS,
    VIDEO_CODECS,
    AudioDepacketizer,
    Frame,
    VideoDepacketizer,
    depacketizer,
)
from sfu.recorder.reorder import Reorder
from sfu.recorder.segment import Segment
from sfu.recorder.sizes import picture_size

# After a silence as long as this a new file begins.
LONG_GAP_S = 300

# A media time that is so far back is that of a sender that began anew.
BACK_S = 2

Log = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Format:
    """What a payload type means."""

    name: str
    clock_rate: int
    channels: int

    @property
    def family(self) -> str:
        """What stands in the file: redundant audio is written plain."""
        return "opus" if self.name in AUDIO_CODECS else self.name


@dataclass(frozen=True, slots=True)
class About:
    """Whose source it is."""

    number: int
    kind: str
    track_id: str
    participant_id: str
    user_id: str
    user_name: str
    source: str
    rid: str
    ssrc: int

    def describe(self) -> dict[str, Any]:
        """Return it as the event log and the manifest tell it."""
        return {
            "kind": self.kind,
            "track_id": self.track_id,
            "participant_id": self.participant_id,
            "user_id": self.user_id,
            "user_name": self.user_name,
            "source": self.source,
            "rid": self.rid,
            "ssrc": self.ssrc,
        }


@dataclass(slots=True)
class _Losses:
    """What is missing since it was told last."""

    packets: int = 0
    frames: int = 0
    waited_frames: int = 0

    def any(self) -> bool:
        return bool(self.packets or self.frames or self.waited_frames)


class Source:
    """Packets in, files out."""

    def __init__(
        self,
        folder: Path,
        about: About,
        formats: Mapping[int, Format],
        next_name: Callable[[str, str], str],
        log: Log,
        want_keyframe: Callable[[], None],
    ) -> None:
        self.about, self._folder, self.formats = about, folder, dict(formats)
        self._next_name, self._log, self._want_keyframe = next_name, log, want_keyframe
        self._reorder: Reorder[tuple[RtpPacket, int]] = Reorder()
        self._depacketizers: dict[str, AudioDepacketizer | VideoDepacketizer] = {}
        self.segment: Segment | None = None
        self._family = ""
        self._losses = _Losses()
        self._needs_key = about.kind == "video"
        # The last RTP timestamp, extended beyond 32 bits; None before the first.
        self._timestamp: int | None = None
        # Whether no packet came since it began, or went on; and the timestamp of a frame that was on its way
        # then: it cannot be whole, and nothing of it was lost.
        self._is_new, self._begun_before = True, -1
        self.frames = 0
        self.lost_packets = 0

    def receive(self, data: bytes, at_us: int, now: float) -> None:
        """Take a packet that was received `at_us` after the recording began.

        Raises:
            OSError: the disk takes nothing more.

        """
        try:
            packet = RtpPacket(data)
        except ValueError:
            return
        for (ordered, at), missing in self._reorder.push(packet.sequence, (packet, at_us), now):
            self._take(ordered, at, missing)

    def tick(self, now: float) -> None:
        """Give up what has been waited for, and tell what is missing; called once a second."""
        for (packet, at), missing in self._reorder.take(now):
            self._take(packet, at, missing)
        self._tell_losses()

    def pause(self) -> None:
        """Forget what waits: nothing of a pause is written, and pictures begin anew after it."""
        self._reorder = Reorder()
        self._depacketizers.clear()
        self._needs_key, self._is_new = self.about.kind == "video", True

    def end(self) -> None:
        """Write what waits, and end the file.

        Raises:
            OSError: the disk takes nothing more.

        """
        for (packet, at), missing in self._reorder.flush():
            self._take(packet, at, missing)
        # Whoever hangs up while a frame is on its way does not end it: nothing of it was lost.
        is_cut = any(made.is_unfinished for made in self._depacketizers.values())
        self._losses.frames += sum(
            len(made.flush()) for made in self._depacketizers.values() if not made.is_unfinished
        )
        self._tell_losses()
        self._end_segment("source_ended", is_cut=is_cut)

    def _take(self, packet: RtpPacket, at_us: int, missing: int) -> None:
        self._losses.packets += missing
        self.lost_packets += missing
        format_ = self.formats.get(packet.payload_type)
        if format_ is None or format_.name not in AUDIO_CODECS | VIDEO_CODECS:
            return
        timestamp = self._extended(packet.timestamp)
        if format_.family != self._family:
            self._end_segment("codec_changed")
            self._family, self._needs_key = format_.family, self.about.kind == "video"
        made = self._depacketizers.get(format_.name)
        if made is None:
            made = self._depacketizers[format_.name] = depacketizer(format_.name)
        payload = packet.data[packet.payload : packet.end]
        frames = made.push(payload, timestamp, marker=bool(packet.marker), missing=missing > 0)
        if self._is_new and payload:
            self._is_new = False
            if not made.is_unfinished and not any(frame.is_whole for frame in frames):
                self._begun_before = timestamp
        for frame in frames:
            self._write(frame, format_, at_us)

    def _extended(self, timestamp: int) -> int:
        before = self._timestamp
        self._timestamp = (
            timestamp if before is None else before + timestamp_delta(timestamp, before & 0xFFFFFFFF)
        )
        return self._timestamp

    def _write(self, frame: Frame, format_: Format, at_us: int) -> None:
        if not frame.is_whole:
            self._losses.frames += frame.timestamp != self._begun_before
            if self.about.kind == "video":
                self._want_keyframe()
            return
        is_video = self.about.kind == "video"
        segment = self.segment
        if segment is not None and (reason := self._why_anew(segment, frame, format_)):
            self._end_segment(reason)
            self._needs_key, segment = is_video, None
        size = picture_size(format_.family, frame.data) if is_video and frame.is_key else None
        # A keyframe without its headers begins nothing: no player could.
        if self._needs_key and size is None:
            self._losses.waited_frames += 1
            self._want_keyframe()
            return
        self._needs_key = False
        if segment is None:
            segment = self._begin_segment(format_, size, at_us, frame.timestamp)
        elif size is not None and size != segment.size:
            self._log("size_changed", {"file": segment.name, "from": segment.size, "to": size})
            segment.size = size
        try:
            segment.write(frame)
        except ValueError:
            self._losses.frames += 1
            if segment.is_broken:
                self._end_segment("broken")
                self._needs_key = is_video
            return
        self.frames += 1

    @staticmethod
    def _why_anew(segment: Segment, frame: Frame, format_: Format) -> str:
        """Return why a frame begins another file; empty: it does not."""
        passed = frame.timestamp - segment.last
        if passed > LONG_GAP_S * format_.clock_rate:
            return "long_gap"
        return "clock_changed" if passed < -BACK_S * format_.clock_rate else ""

    def _begin_segment(
        self, format_: Format, size: tuple[int, int] | None, at_us: int, timestamp: int
    ) -> Segment:
        name = self._next_name(self.about.kind, format_.family)
        told = {"file": name, "codec": format_.family, "start_ms": at_us // 1000, "size": size}
        # Media time of the first frame, as the sender's reports speak of it.
        told["rtp_start"] = timestamp & 0xFFFFFFFF
        # Told before it is there: a file of which nothing was told would not belong to the recording.
        self._log(
            "segment_started",
            told | {"clock_rate": format_.clock_rate, "channels": format_.channels} | self.about.describe(),
        )
        self.segment = Segment(
            self._folder / name, format_.family, format_.clock_rate, format_.channels, size
        )
        return self.segment

    def _end_segment(self, reason: str, *, is_cut: bool = False) -> None:
        segment, self.segment = self.segment, None
        if segment is None:
            return
        segment.close()
        digest, size = segment.snapshot()
        told = {
            "file": segment.name,
            "reason": reason,
            "frames": segment.frames,
            "sha256": digest,
            "bytes": size,
        }
        self._log(
            "segment_ended",
            told
            | {"duration_ms": segment.duration_ms, "repaired_times": segment.repaired_times}
            | ({"unfinished_frame": True} if is_cut else {}),
        )

    def _tell_losses(self) -> None:
        losses, self._losses = self._losses, _Losses()
        if losses.any():
            told = {
                "track_id": self.about.track_id,
                "file": self.segment.name if self.segment is not None else None,
                "packets": losses.packets,
                "broken_frames": losses.frames,
                "frames_before_keyframe": losses.waited_frames,
            }
            self._log("loss", told)
