"""What an encoder tells of its layers: which there are, how many frames and what share of the bits they are.

Spatial layers are pictures of growing size, temporal ones frames at growing rates (W3C "Scalable Video Coding
(SVC) Extension for WebRTC"). A place in both names a part of the stream that can be shown by itself.
"""

import itertools
from typing import Final

from sfu.media.dependency import (
    MAX_SPATIAL_LAYERS,
    MAX_TEMPORAL_LAYERS,
    NOTHING_KNOWN,
    Dependencies,
    Told,
)
from sfu.media.packet import RtpPacket
from sfu.media.thinning import WHOLE, is_late

# The temporal layers above which frames are left out: browsers make three.
LEAVING_OUT: Final = (0, 1)

# What the frames up to those cost of an encoding before that was measured (libwebrtc's SimulcastRateAllocator
# gives 40 and 60 % to them); and what a picture of half the width and height costs of the larger one.
_GUESSED_SHARES: Final = (0.45, 0.65)
_GUESSED_HALF: Final = 0.35

# An encoder that told nothing of its temporal layers for so long makes none.
_UNTOLD_S: Final = 3.0

# So many frames a second more than asked for are as good as that.
_MORE_FRAMES: Final = 1.2

# Weight of the newest second in the shares.
_SMOOTHING: Final = 0.5

_PLACES: Final = MAX_SPATIAL_LAYERS * MAX_TEMPORAL_LAYERS


class Scalability:
    """Layers of one stream, as its descriptors tell of them, and how much of it they were lately."""

    def __init__(self) -> None:
        self._dependencies = Dependencies()
        # Of the packet that was told last.
        self.told: Told = NOTHING_KNOWN
        self._newest: int | None = None
        # Spatial layers of the stream; 1 where they are not told apart. The highest that comes now, and
        # (width, height) of each, where that is told.
        self.spatial_layers = 1
        self.highest = 0
        self.sizes: tuple[tuple[int, int], ...] = ()
        # Whether a picture always needs the smaller ones (L3T3), not only with a keyframe (L3T3_KEY).
        self.is_nested = True
        self._active = 0
        # Frames of each temporal layer since it was measured; frames in a second up to each, once known.
        self._frames = [0] * MAX_TEMPORAL_LAYERS
        self.frame_rates: list[float] = []
        # Bytes of each place since then, first of what larger pictures do not need; shares of all bytes.
        self._octets = [0] * (2 * _PLACES)
        self._shares: list[float] = []
        # For how long nothing was told, though somebody listened.
        self._untold_s = 0.0

    def tell(self, packet: RtpPacket, value: bytes, frame: Told) -> bool:
        """Take note of the frame of a packet; return whether there are other layers than before.

        `value`: the dependency descriptor; without one, `frame` is what the payload says.
        """
        told = self._dependencies.read(value) if value else frame
        if self._newest is not None and is_late(packet.sequence, self._newest):
            told = told._replace(begins=False)  # too late for anybody to begin with
        else:
            self._newest = packet.sequence
        self.told = told
        if told.temporal < 0:
            return False
        place = told.spatial * MAX_TEMPORAL_LAYERS + told.temporal
        self._octets[place + _PLACES if told.serves_above else place] += len(packet.data)
        if told.begins and told.spatial == 0:
            self._frames[told.temporal] += 1
            if not told.is_key:
                self.is_nested = told.serves_above
        return self._note_layers(told.spatial) if value else False

    def _note_layers(self, spatial: int) -> bool:
        known, before = self._dependencies, (self.spatial_layers, self.highest, self.sizes)
        if known.highest != self._active or known.spatial_layers != self.spatial_layers:
            self._active = self.highest = known.highest
        elif self.highest < spatial < known.spatial_layers:
            self.highest = spatial  # it comes, whatever was said
        self.spatial_layers, self.sizes = known.spatial_layers, known.sizes
        return (self.spatial_layers, self.highest, self.sizes) != before

    def measure(self, seconds: float, *, is_alive: bool) -> bool:
        """Measure frames and shares of the last seconds; return whether the highest layer stays away now."""
        told = any(self._octets)
        if told or is_alive:
            self._untold_s = 0.0 if told else self._untold_s + seconds
        counted = itertools.accumulate(self._frames)
        self.frame_rates = [count / seconds for count in counted] if told else []
        octets, total = self._octets, sum(self._octets)
        self._frames, self._octets = [0] * MAX_TEMPORAL_LAYERS, [0] * (2 * _PLACES)
        if not total:
            return False
        shares = [count / total for count in octets]
        before = self._shares or shares
        self._shares = [old + (new - old) * _SMOOTHING for old, new in zip(before, shares, strict=True)]
        if self.spatial_layers == 1:
            return False
        comes = max(at % _PLACES // MAX_TEMPORAL_LAYERS for at, count in enumerate(octets) if count)
        is_less, self.highest = comes < self.highest, min(comes, self.highest)
        return is_less

    def begin_again(self) -> None:
        """Read and count from now on: what descriptors mean may be another thing than it was."""
        self._dependencies, self.told, self._newest = Dependencies(), NOTHING_KNOWN, None
        self.spatial_layers, self.highest, self._active, self.sizes = 1, 0, 0, ()
        self._frames, self.frame_rates = [0] * MAX_TEMPORAL_LAYERS, []
        self._octets, self._shares = [0] * (2 * _PLACES), []

    def share(self, temporal: int, spatial: int = WHOLE) -> float:
        """Return what part of the bits it takes up to a temporal and a spatial layer, 0-1."""
        if not self._shares:
            guessed = _GUESSED_SHARES[temporal] if temporal < len(_GUESSED_SHARES) else 1.0
            return guessed * _GUESSED_HALF ** max(0, self.highest - spatial)
        found = 0.0
        for at, share in enumerate(self._shares):
            place = at % _PLACES
            below = place // MAX_TEMPORAL_LAYERS
            is_needed = spatial == WHOLE or below == spatial or (below < spatial and at >= _PLACES)
            if share and is_needed and place % MAX_TEMPORAL_LAYERS <= temporal:
                found += share
        return found

    def thinner(self, *, is_described: bool) -> list[int]:
        """Return the temporal layers above which frames can be left out; fewest frames first.

        None where the encoder tells no frames apart; as long as nobody knows, what browsers do is expected
        of those that agreed to describe their frames (`is_described`).
        """
        rates = self.frame_rates
        if self._untold_s >= _UNTOLD_S or not (rates or is_described):
            return []
        return [temporal for temporal in LEAVING_OUT if not rates or rates[temporal] < rates[-1]]

    def up_to(self, max_fps: int | None, temporal: int | None) -> int:
        """Return the temporal layer above which frames are left out for a receiver; WHOLE: none are.

        `max_fps`: frames in a second that he has use for; `temporal`: what his link takes; None: all.
        """
        rates, wanted = self.frame_rates, WHOLE
        if rates and max_fps is not None:
            fitting = max((at for at, rate in enumerate(rates) if rate <= max_fps * _MORE_FRAMES), default=0)
            if rates[-1] > rates[fitting] and fitting in LEAVING_OUT:
                wanted = fitting
        return wanted if temporal is None else min(wanted, temporal)
