"""What a dependency descriptor tells of a frame (AV1 RTP payload specification, appendix A).

A keyframe brings templates: the spatial and temporal layer of a frame, how far back the frames stand that
it needs, and which decode targets (pictures of a size and a rate) have use for it. Every packet names its
frame's number and template. Browsers send it with every codec, VP8 too, whose own descriptor then tells
nothing.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

# Frames that are remembered, to know of which temporal layer those are that a frame needs.
MAX_FRAMES: Final = 64

# Temporal and spatial layers that there may be, and templates: the number of one has six bits.
MAX_TEMPORAL_LAYERS: Final = 8
MAX_SPATIAL_LAYERS: Final = 4
_MAX_TEMPLATES: Final = 64


class Told(NamedTuple):
    """What is known of the frame of a packet.

    `temporal`, `spatial`: its layers, 0 the lowest; a `temporal` of -1 where that is not told. `begins`,
    `ends`: it does so here. `is_sync`: of the temporal layers above the lowest it needs none, as VP8's Y bit
    says. `serves_above`: larger pictures need it. `is_key`: it needs no other frame.
    """

    temporal: int
    begins: bool
    is_sync: bool
    spatial: int = 0
    ends: bool = False
    serves_above: bool = False
    is_key: bool = False


NOTHING_KNOWN: Final = Told(-1, False, False)


def has_structure(value: bytes) -> bool:
    """Tell whether a descriptor brings templates."""
    return len(value) > 3 and bool(value[3] & 0x80)


class _Template(NamedTuple):
    spatial: int
    temporal: int
    # How many frames back those stand that it needs.
    needs: tuple[int, ...]
    # The decode targets that have use for it, one bit each.
    targets: int


class _Structure(NamedTuple):
    # The id of the first template.
    first: int
    templates: tuple[_Template, ...]
    # The spatial layer of each decode target.
    targets: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]


class _Frame(NamedTuple):
    """What a descriptor says beyond its template; None: the template holds."""

    structure: _Structure
    active: int
    targets: int | None = None
    needs: Sequence[int] | None = None


_NO_STRUCTURE: Final = _Structure(0, (), (), ())


class Dependencies:
    """Reads the descriptors of one stream, in the order in which they come."""

    def __init__(self) -> None:
        self._structure: _Structure = _NO_STRUCTURE
        # Spatial layers that are taken apart (1: none are), the highest that is sent, and (width, height) of
        # each from the lowest on, where that is told.
        self.spatial_layers = 1
        self.highest = 0
        self.sizes: tuple[tuple[int, int], ...] = ()
        self._active = 0
        # The temporal layer of each frame lately, by number.
        self._frames: dict[int, int] = {}

    def read(self, value: bytes) -> Told:
        """Return what a descriptor says; nothing before the first structure, or of a broken one."""
        if len(value) < 3:
            return NOTHING_KNOWN
        number = value[1] << 8 | value[2]
        frame: _Frame | None = None
        if len(value) > 3:
            try:
                frame = self._read_more(value)
            except (EOFError, ValueError):
                return NOTHING_KNOWN
            self._take(frame)
        structure = self._structure
        index = (value[0] - structure.first) & 63
        if index >= len(structure.templates):
            return NOTHING_KNOWN
        spatial, temporal, needed, targets = structure.templates[index]
        if frame is not None:
            needed = needed if frame.needs is None else tuple(frame.needs)
            targets = targets if frame.targets is None else frame.targets
        is_sync = all(self._frames.get((number - back) & 0xFFFF, 1) == 0 for back in needed)
        if number not in self._frames:
            self._frames[number] = temporal
            if len(self._frames) > MAX_FRAMES:
                del self._frames[next(iter(self._frames))]
        serves_above = any(
            targets >> target & 1 and above > spatial for target, above in enumerate(structure.targets)
        )
        return Told(
            temporal,
            bool(value[0] & 0x80),
            temporal > 0 and is_sync,
            spatial,
            bool(value[0] & 0x40),
            serves_above,
            not needed,
        )

    def _take(self, frame: _Frame) -> None:
        """Take over which layers there are, if that is not what was known."""
        if frame.structure is self._structure and frame.active == self._active:
            return
        if frame.structure is not self._structure:
            self._frames.clear()
        self._structure, self._active = frame.structure, frame.active
        reach = frame.structure.targets
        # Pictures of which none needs another are not layers but several streams in one.
        are_apart = all(found.needs for found in frame.structure.templates if found.spatial > 0)
        self.spatial_layers = max(reach) + 1 if are_apart else 1
        active = [spatial for target, spatial in enumerate(reach) if frame.active >> target & 1]
        self.highest = max(active, default=0) if are_apart else 0
        self.sizes = frame.structure.sizes

    def _read_more(self, value: bytes) -> _Frame:
        """Read what stands behind the number."""
        bits = _Bits(value, 24)
        has_structure, has_active, has_targets, has_needs, _ = (bits.take(1) for _ in range(5))
        structure, active = self._structure, self._active
        if has_structure:
            structure = _read_structure(bits)
            active = (1 << len(structure.targets)) - 1
        if has_active:
            active = bits.take(len(structure.targets))
        targets: int | None = None
        if has_targets:
            targets = _read_targets(bits, len(structure.targets))
        needs: list[int] | None = None
        if has_needs:
            needs = []
            while size := bits.take(2):
                needs.append(bits.take(4 * size) + 1)
        return _Frame(structure, active, targets, needs)


def _read_structure(bits: "_Bits") -> _Structure:
    first, count = bits.take(6), bits.take(5) + 1
    layers, spatial, temporal = [(0, 0)], 0, 0
    while (step := bits.take(2)) != 3:
        if step == 1:
            temporal += 1
        elif step == 2:
            spatial, temporal = spatial + 1, 0
        layers.append((spatial, temporal))
        if len(layers) > _MAX_TEMPLATES or temporal >= MAX_TEMPORAL_LAYERS or spatial >= MAX_SPATIAL_LAYERS:
            raise ValueError("too many templates or layers")
    targets = [_read_targets(bits, count) for _ in layers]
    needs = []
    for _ in layers:
        found = []
        while bits.take(1):
            found.append(bits.take(4) + 1)
        needs.append(tuple(found))
    chains = bits.take_below(count + 1)
    if chains:
        for _ in range(count):
            bits.take_below(chains)
        bits.take(4 * chains * len(layers))
    sizes = []
    if bits.take(1):
        sizes = [(bits.take(16) + 1, bits.take(16) + 1) for _ in range(spatial + 1)]
    templates = [
        _Template(place[0], place[1], needed, use)
        for place, needed, use in zip(layers, needs, targets, strict=True)
    ]
    # A decode target is as large as the largest that it has use for.
    reach = [max((t.spatial for t in templates if t.targets >> i & 1), default=0) for i in range(count)]
    return _Structure(first, tuple(templates), tuple(reach), tuple(sizes))


def _read_targets(bits: "_Bits", count: int) -> int:
    """Return which decode targets have use for a frame; what they need it for is the receiver's affair."""
    return sum((bits.take(2) > 0) << target for target in range(count))


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

    def take_below(self, count: int) -> int:
        """Return a number below `count`, as ns(count) has it (AV1 bitstream specification, 4.10.7).

        Raises:
            EOFError: there are not so many bits.

        """
        width = count.bit_length()
        short = (1 << width) - count
        number = self.take(width - 1)
        return number if number < short else (number << 1) - short + self.take(1)
