"""Pictures and tones that can be recognised at the other end, to the frame.

Each picture carries its number as a row of black and white blocks that survive any
sensible encoding; each tone is one frequency.
"""

import asyncio
import fractions

import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame, VideoFrame
from numpy.typing import NDArray

from sfu import clock

# The number of a picture: 16 bits, one block of 16 x 16 pixels each, and their parity.
BITS = 16
_BLOCK = 16
WIDTH, HEIGHT, FRAMES_PER_S = 320, 240, 20

SAMPLE_RATE = 48_000
_SAMPLES = 960  # 20 ms, one Opus packet


class CounterVideo(MediaStreamTrack):
    """A moving pattern with the number of each frame in it."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._started: float | None = None
        self.frames = 0
        rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
        self._pattern: NDArray[np.uint8] = ((rows + columns) % 256).astype(np.uint8)

    @property
    def late_s(self) -> float:
        """For how long the next picture is due, in seconds: a busy machine makes it later than it should."""
        if self._started is None:
            return 0.0
        return max(0.0, clock.now() - self._started - self.frames / FRAMES_PER_S)

    async def recv(self) -> VideoFrame:
        """Return the next picture when its time has come."""
        if self.readyState != "live":
            raise MediaStreamError
        if self._started is None:
            self._started = clock.now()
        else:
            await asyncio.sleep(self._started + self.frames / FRAMES_PER_S - clock.now())
        number, self.frames = self.frames, self.frames + 1
        frame = VideoFrame.from_ndarray(self._picture(number), format="gray8").reformat(format="yuv420p")
        frame.pts, frame.time_base = number * 90_000 // FRAMES_PER_S, fractions.Fraction(1, 90_000)
        return frame

    def _picture(self, number: int) -> NDArray[np.uint8]:
        picture = np.roll(self._pattern, 3 * number, axis=1) // 2 + 64
        bits = [number >> bit & 1 for bit in range(BITS)]
        for place, bit in enumerate([*bits, sum(bits) & 1]):
            picture[:_BLOCK, place * _BLOCK : (place + 1) * _BLOCK] = 235 if bit else 16
        return np.ascontiguousarray(picture)


def read_number(frame: VideoFrame) -> int | None:
    """Return the number in a picture of any size; None if it cannot be read."""
    grey = frame.to_ndarray(format="gray8")
    scale = grey.shape[1] / WIDTH
    block = _BLOCK * scale
    bits = []
    for place in range(BITS + 1):
        left = int(place * block + block / 4)
        middle = grey[int(block / 4) : int(block * 3 / 4), left : left + max(1, int(block / 2))]
        bits.append(int(middle.mean() > 125))
    if sum(bits[:BITS]) & 1 != bits[BITS]:
        return None
    return sum(bit << place for place, bit in enumerate(bits[:BITS]))


class Tone(MediaStreamTrack):
    """One frequency, for ever."""

    kind = "audio"

    def __init__(self, frequency_hz: float) -> None:
        super().__init__()
        self.frequency_hz = frequency_hz
        self._started: float | None = None
        self._sent = 0

    @property
    def sent_s(self) -> float:
        """How much of it was sent, in seconds."""
        return self._sent / SAMPLE_RATE

    @property
    def late_s(self) -> float:
        """For how long the next 20 ms are due, in seconds: a busy machine makes them later than it should."""
        return 0.0 if self._started is None else max(0.0, clock.now() - self._started - self.sent_s)

    async def recv(self) -> AudioFrame:
        """Return the next 20 ms when their time has come."""
        if self.readyState != "live":
            raise MediaStreamError
        if self._started is None:
            self._started = clock.now()
        else:
            await asyncio.sleep(self._started + self._sent / SAMPLE_RATE - clock.now())
        at = np.arange(self._sent, self._sent + _SAMPLES) / SAMPLE_RATE
        samples = (np.sin(2 * np.pi * self.frequency_hz * at) * 8000).astype(np.int16)
        frame = AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.pts, frame.sample_rate = self._sent, SAMPLE_RATE
        frame.time_base = fractions.Fraction(1, SAMPLE_RATE)
        self._sent += _SAMPLES
        return frame


def loudest_frequency(frames: list[AudioFrame]) -> float:
    """Return the frequency in Hz that carries most of some audio; 0 for silence."""
    channels = len(frames[0].layout.channels) if frames else 1
    parts = [frame.to_ndarray().reshape(-1)[::channels] for frame in frames]
    samples = np.concatenate(parts).astype(np.float64) if parts else np.zeros(1)
    if np.abs(samples).max(initial=0) < 50:
        return 0.0
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * frames[0].sample_rate / len(samples))
