"""One Matroska file of one source, written as it comes and never read: what is on the disk stays readable.

Nothing is sought, so a running hash is the hash of the file. Clusters are a tenth of a second long, and each
is handed to the disk at once: a process that is killed loses what was not yet in a cluster.
"""

import errno
import hashlib
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.audio.layout import AudioLayout
from av.audio.stream import AudioStream

from sfu.recorder.depacketize import AUDIO_CODECS, Frame

CLUSTER_MS = 100

# The size that is written where a keyframe does not tell it; decoders go by the bitstream.
UNKNOWN_SIZE = (640, 480)


class _Sink:
    """A file that is only appended to, with the hash of what is in it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        self.digest, self.bytes = hashlib.sha256(), 0
        # Why the disk takes nothing more.
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Append; raises OSError where the disk takes nothing more."""
        rest = memoryview(bytes(data))
        while rest:
            try:
                taken = os.write(self.descriptor, rest)
            except OSError as error:
                self.error = error
                raise
            self.digest.update(rest[:taken])
            self.bytes += taken
            rest = rest[taken:]
        return len(data)


class Segment:
    """A file while it is written."""

    def __init__(
        self, path: Path, codec: str, clock_rate: int, channels: int, size: tuple[int, int] | None
    ) -> None:
        """Begin a file.

        Raises:
            OSError: it cannot be made.

        """
        self.name, self.codec, self.clock_rate, self.size = path.name, codec, clock_rate, size
        self.frames = 0
        self.repaired_times = 0
        # Media time of the first and of the last frame, in the clock of the track.
        self.first = self.last = 0
        self.is_open = True
        # After a failure the muxer is not touched again: what it holds then is undefined.
        self.is_broken = False
        self._sink = _Sink(path)
        options = {"flush_packets": "1", "cluster_time_limit": str(CLUSTER_MS)}
        self._container = av.open(self._sink, "w", format="matroska", options=options)
        if codec in AUDIO_CODECS:
            # Only a declared encoder writes the OpusHead that players want; nothing is encoded by it.
            audio = self._container.add_stream("libopus", rate=48_000)
            assert isinstance(audio, AudioStream)
            audio.codec_context.layout = AudioLayout("stereo" if channels == 2 else "mono")
            self._stream: Any = audio
        else:
            width, height = size or UNKNOWN_SIZE
            self._stream = self._container.add_mux_stream(codec, rate=30, width=width, height=height)
        self._time_base = Fraction(1, clock_rate)
        self._stream.time_base = self._time_base

    def write(self, frame: Frame) -> None:
        """Append a frame; its time never goes back.

        Raises:
            OSError: the disk takes nothing more.
            ValueError: the format does not take such a frame; a file that is broken takes none.

        """
        if self.is_broken:
            raise ValueError("the file is broken")
        if not self.frames:
            self.first = self.last = frame.timestamp
        at = frame.timestamp
        if at < self.last:
            at, self.repaired_times = self.last, self.repaired_times + 1
        self.last = at
        packet = av.Packet(frame.data)
        packet.stream = self._stream
        packet.time_base = self._time_base
        packet.pts = packet.dts = at - self.first
        packet.is_keyframe = frame.is_key
        try:
            self._container.mux(packet)
        except (av.FFmpegError, OSError) as error:
            self.is_broken = not self.frames or self._sink.error is not None
            if self._sink.error is not None:
                raise self._sink.error from error
            raise ValueError(str(error)) from error
        self.frames += 1

    def snapshot(self) -> tuple[str, int]:
        """Return the hash of what was written so far, and how much it is."""
        return self._sink.digest.copy().hexdigest(), self._sink.bytes

    def descriptor(self) -> int:
        """Return another descriptor of the file, for a thread that waits for the disk and closes it."""
        return os.dup(self._sink.descriptor)

    @property
    def duration_ms(self) -> int:
        """From the first frame to the last."""
        return round((self.last - self.first) * 1000 / self.clock_rate)

    def close(self) -> None:
        """End the file; nothing of it is lost if the disk takes no more.

        Raises:
            OSError: the disk takes nothing more; what is on it stays.

        """
        if not self.is_open:
            return
        try:
            if not self.is_broken:
                self._container.close()
            os.fdatasync(self._sink.descriptor)
        except av.FFmpegError as error:
            raise self._sink.error or OSError(errno.EIO, str(error)) from error
        finally:
            self.is_open = False
            os.close(self._sink.descriptor)
