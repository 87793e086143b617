"""What a dependency descriptor tells of a frame (AV1 RTP payload specification, appendix A).

A keyframe brings templates: the temporal layer of a frame, and how far back the frames stand that it needs.
Every packet names its frame's number and template. Browsers send it with every codec, VP8 too, whose own
descriptor then tells nothing.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

# Frames that are remembered, to know of which temporal layer those are that a frame needs.
MAX_FRAMES: Final = 64

# Temporal layers that there may be, and templates: the number of one has six bits.
MAX_TEMPORAL_LAYERS: Final = 8
_MAX_TEMPLATES: Final = 64


class Told(NamedTuple):
    """What is known of the frame of a packet.

    `temporal`: its temporal layer, 0 the lowest, -1 where that is not told. `begins`: it begins here.
    `is_sync`: of the temporal layers above the lowest it needs none, as VP8's Y bit says.
    """

    temporal: int
    begins: bool
    is_sync: bool


NOTHING_KNOWN: Final = Told(-1, False, False)


class _Template(NamedTuple):
    temporal: int
    # How many frames back those stand that it needs.
    needs: tuple[int, ...]


class Dependencies:
    """Reads the descriptors of one stream, in the order in which they come."""

    def __init__(self) -> None:
        self._templates: list[_Template] = []
        # The id of the first template, and how many decode targets there are.
        self._first = self._targets = 0
        # The temporal layer of each frame lately, by number.
        self._frames: dict[int, int] = {}

    def read(self, value: bytes) -> Told:
        """Return what a descriptor says; nothing before the first structure, or of a broken one."""
        if len(value) < 3:
            return NOTHING_KNOWN
        number = value[1] << 8 | value[2]
        needs: Sequence[int] | None = None
        if len(value) > 3:
            try:
                needs = self._read_more(value)
            except (EOFError, ValueError):
                return NOTHING_KNOWN
        index = (value[0] - self._first) & 63
        if index >= len(self._templates):
            return NOTHING_KNOWN
        temporal, usual = self._templates[index]
        needed = usual if needs is None else needs
        is_sync = all(self._frames.get((number - back) & 0xFFFF, 1) == 0 for back in needed)
        if number not in self._frames:
            self._frames[number] = temporal
            if len(self._frames) > MAX_FRAMES:
                del self._frames[next(iter(self._frames))]
        return Told(temporal, bool(value[0] & 0x80), temporal > 0 and is_sync)

    def _read_more(self, value: bytes) -> list[int] | None:
        """Read what stands behind the number; return what the frame needs, None if its template says it."""
        bits = _Bits(value, 24)
        has_structure, has_active, has_targets, has_needs, _ = (bits.take(1) for _ in range(5))
        if has_structure:
            self._read_structure(bits)
            return None  # a keyframe needs nothing, and its template says so
        if has_active:
            bits.take(self._targets)
        if has_targets:
            bits.take(2 * self._targets)
        if not has_needs:
            return None
        needs = []
        while size := bits.take(2):
            needs.append(bits.take(4 * size) + 1)
        return needs

    def _read_structure(self, bits: "_Bits") -> None:
        first, targets = bits.take(6), bits.take(5) + 1
        layers, temporal = [0], 0
        while (next_ := bits.take(2)) != 3:
            temporal = {0: temporal, 1: temporal + 1, 2: 0}[next_]
            layers.append(temporal)
            if len(layers) > _MAX_TEMPLATES or temporal >= MAX_TEMPORAL_LAYERS:
                raise ValueError("too many templates or temporal layers")
        bits.take(2 * targets * len(layers))
        templates = []
        for layer in layers:
            needs = []
            while bits.take(1):
                needs.append(bits.take(4) + 1)
            templates.append(_Template(layer, tuple(needs)))
        self._templates, self._first, self._targets = templates, first, targets
        self._frames.clear()


class _Bits:
    """Bits of some bytes, from one on."""

    def __init__(self, data: bytes, at: int) -> None:
        self._number, self._left = int.from_bytes(data, "big"), 8 * len(data) - at

    def take(self, count: int) -> int:
        """Return the next so many bits as a number.

        Raises:
            EOFError: there are not so many.

        """
        self._left -= count
        if self._left < 0:
            raise EOFError
        return self._number >> self._left & ((1 << count) - 1)
