"""How loud a voice is, from the level that its sender writes beside each packet (RFC 6464).

Nothing is decoded: the header extension gives -127 (silence) to 0 dBov.
"""

import math

# Amplitude, 0 to 1, of each level in -dBov.
_AMPLITUDE = [10 ** (-level / 20) for level in range(127)] + [0.0]

# A voice is heard within two packets and stays for a breath: pauses between words are no silence.
_RISE, _FALL = 0.5, 0.06

# No packet for so long is silence: DTX sends one every 400 ms.
SILENT_S = 0.6

# Below this (about -46 dBov) it is a room, not a voice.
SPEAKING = 0.005


def in_steps(amplitude: float) -> float:
    """Return an amplitude in steps of 6 dB, so that not every syllable is news."""
    return 0.0 if amplitude <= 0 else min(1.0, 2.0 ** round(math.log2(amplitude)))


class AudioLevel:
    """Levels in, one smoothed loudness out."""

    __slots__ = ("_at", "_value")

    def __init__(self) -> None:
        self._value = 0.0
        self._at = float("-inf")

    def receive(self, extension: int, now: float) -> None:
        """Take the extension's byte: a flag for voice activity, then the level in -dBov."""
        amplitude = _AMPLITUDE[extension & 0x7F]
        self._value += (amplitude - self._value) * (_RISE if amplitude > self._value else _FALL)
        self._at = now

    def loudness(self, now: float) -> float:
        """Return the amplitude, 0 to 1; 0 for who is not speaking."""
        if now - self._at > SILENT_S or self._value < SPEAKING:
            return 0.0
        return self._value
