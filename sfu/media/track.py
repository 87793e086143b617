"""What somebody publishes: a track, and its encodings (layers)."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from sfu.media.allocation import LayerOption
from sfu.media.audio_level import AudioLevel
from sfu.media.codecs import Codec, frame_size
from sfu.media.dependency import MAX_TEMPORAL_LAYERS, NOTHING_KNOWN, Dependencies, Told
from sfu.media.fan_out import FanOut
from sfu.media.history import History
from sfu.media.keyframes import KeyframeRequests
from sfu.media.nack import NackGenerator
from sfu.media.negotiation import DEPENDENCY_DESCRIPTOR_URI
from sfu.media.packet import RtpPacket
from sfu.media.picture_ids import NOTHING_TOLD, describe
from sfu.media.reception import Reception
from sfu.media.thinning import Thinning, is_late

# A layer from which nothing came for so long is not a layer to show.
LAYER_SILENT_S: Final = 1.0

# A layer must be this much larger than the shown one to take its place.
_CLEARLY_MORE: Final = 1.25

# An encoding that nobody takes is stopped after this; the lowest one stays as a picture at once for
# whoever joins, until nobody was there for the longer time.
UNUSED_S: Final = 3.0
ABANDONED_S: Final = 30.0

# An encoding that its publisher was asked to begin again is counted on for so long.
_AWAITED_S: Final = 3.0

# What an encoding is thought to cost before it was measured, by its rank from below.
_GUESSED_BPS: Final = (150_000.0, 500_000.0, 1_500_000.0, 3_000_000.0)

# What an encoding is thought to cost falls by this each second, down to what it does cost.
_NOMINAL_DECAY: Final = 0.95

# The temporal layers above which frames are left out: browsers make three.
_LEAVING_OUT: Final = (0, 1)

# What the frames up to those cost of an encoding before that was measured (libwebrtc's SimulcastRateAllocator
# gives 40 and 60 % to them).
_GUESSED_SHARES: Final = (0.45, 0.65)

# An encoder that told nothing of its temporal layers for so long makes none.
_UNTOLD_S: Final = 3.0

# So many frames a second more than asked for are as good as that.
_MORE_FRAMES: Final = 1.2

# When nobody wanted fewer frames for so long, none are prepared.
_FEWER_UNUSED_S: Final = 10.0

# Weight of the newest second in the rate of a layer.
_RATE_SMOOTHING: Final = 0.5


@dataclass(frozen=True, slots=True)
class SenderClock:
    """Where a publisher's media time stood on its own NTP clock, and when we heard it."""

    ntp: int
    timestamp: int
    heard_at: float


class Layer:
    """One encoding of a track: one SSRC of the publisher, and its repair stream."""

    def __init__(self, track: "Track", rid: str, ssrc: int, clock_rate: int) -> None:
        self.track = track
        self.rid = rid
        self.ssrc = ssrc
        # SSRC of the rtx stream, once it is known.
        self.rtx_ssrc: int | None = None
        self.reception = Reception(clock_rate)
        self.history = History()
        # None where no NACK was agreed.
        self.nack: NackGenerator | None = None
        self.keyframes = KeyframeRequests()
        # The last sender report; None before the first.
        self.clock: SenderClock | None = None
        self.last_packet_at = float("-inf")
        # Where the transport-wide number stood in the header extension last.
        self.number_at = 0
        # Of the last keyframe that told it; 0 before.
        self.width = self.height = 0
        # What it costs now, and what it cost when it was sent last: an encoding that is stopped
        # costs nothing now and as much as before when it is asked for.
        self.bitrate_bps = 0.0
        self.nominal_bps = 0.0
        # Fraction lost on the way from the publisher in the last report.
        self.loss = 0.0
        # When somebody took it last, and whether its publisher was told to stop it.
        self.used_at = float("-inf")
        self.is_asleep = False
        self.woken_at = float("-inf")
        self._octets_before = 0
        self._measured_at: float | None = None
        # Where it is what another one is with fewer frames: that one, and how they are left out.
        self._base: Layer | None = None
        self.thinning: Thinning | None = None
        # The same with fewer frames, fewest first; none as long as nobody wants them.
        self.fewer: list[Layer] = []
        self._fewer_wanted_at = float("-inf")
        # Frames of each temporal layer since it was measured; frames in a second up to each, once known.
        self._frames = [0] * MAX_TEMPORAL_LAYERS
        self._frame_rates: list[float] = []
        # For how long nobody said of which temporal layer frames are, though somebody listened.
        self._untold_s = 0.0
        self._dependencies = Dependencies()
        # Of the packet that is being forwarded, while somebody wants fewer frames; and the newest number.
        self._told = NOTHING_KNOWN
        self._newest: int | None = None

    @property
    def base(self) -> "Layer":
        """The encoding that comes from the publisher: this one, or the one of which this is a part."""
        return self._base if self._base is not None else self

    @property
    def _highest(self) -> int:
        return self.thinning.highest if self.thinning is not None else MAX_TEMPORAL_LAYERS

    def thinner(self) -> list[tuple[int, float]]:
        """Return what it costs up to each temporal layer, fewest frames first: (highest, bits a second).

        Nothing where its encoder tells no frames apart; as long as nobody knows, what browsers do is expected
        of those that agreed to describe their frames.
        """
        rates = self._frame_rates
        if self._untold_s >= _UNTOLD_S or not (rates or self.track.dependency_id):
            return []
        found = []
        for highest, share in zip(_LEAVING_OUT, _GUESSED_SHARES, strict=True):
            if rates and rates[highest] >= rates[-1]:
                break  # it has no more
            measured = self.fewer[highest].nominal_bps if rates and self.fewer else 0.0
            found.append((highest, measured or self.nominal_bps * share))
        return found

    def with_frames(
        self, max_fps: int | None, shown: "Layer | None", now: float, highest: int | None = None
    ) -> "Layer":
        """Return this, or what it is with so many frames a second; from fewer to more a step at a time.

        `highest`: the temporal layer above which the link takes no frames; None: it takes all. What an
        encoder does not tell apart stays as it is, and so it does until that is known.
        """
        self._fewer_wanted_at = now
        if not self.fewer:
            self._frames, self._frame_rates = [0] * MAX_TEMPORAL_LAYERS, []
            self.fewer = [self._thinned(highest) for highest in _LEAVING_OUT]
            if self.track.dependency_id:  # what its descriptors mean stands in a keyframe
                self.track.want_keyframe(self, now)
        steps = [*self.fewer, self]
        at = steps.index(shown) if shown in steps else None
        rates = self._frame_rates
        if not rates:
            return self if at is None else steps[at]
        enough = [rate <= max_fps * _MORE_FRAMES for rate in rates] if max_fps is not None else []
        fitting = max((tid for tid, fits in enumerate(enough) if fits), default=0)
        wanted = len(self.fewer)
        if max_fps is not None and rates[-1] > rates[fitting]:
            wanted = min(fitting, wanted)
        if highest is not None:
            wanted = min(highest, wanted)
        return steps[wanted if at is None else min(wanted, at + 1)]

    def _thinned(self, highest: int) -> "Layer":
        made = Layer(self.track, self.rid, self.ssrc, 90_000)
        made._base, made.thinning = self, Thinning(highest)
        return made

    @property
    def is_told_apart(self) -> bool:
        """Whether it is known of the packet that is being forwarded of which temporal layer it is."""
        return self.base._told.temporal >= 0

    def follows(self, shown: "Layer") -> bool:
        """Tell whether this goes on from this packet on where more or fewer frames of the same were shown.

        Fewer frames need nothing that was not sent; more begin where nothing is needed of those left out.
        """
        told = self.base._told
        if shown._highest > self._highest:
            return told.begins
        return told.begins and told.is_sync and told.temporal == shown._highest + 1

    def measure(self, now: float) -> None:
        """Update the bitrate; called about once a second."""
        if self._measured_at is not None and now > self._measured_at:
            rate = (self.reception.octets - self._octets_before) * 8 / (now - self._measured_at)
            self.bitrate_bps += (rate - self.bitrate_bps) * (_RATE_SMOOTHING if self.bitrate_bps else 1.0)
            if now - self.last_packet_at < LAYER_SILENT_S:
                # Encoders start low and follow what they show: a still picture is not what a layer costs.
                self.nominal_bps = max(self.bitrate_bps, self.nominal_bps * _NOMINAL_DECAY)
            self._measure_frames(now - self._measured_at, now)
        self._measured_at, self._octets_before = now, self.reception.octets

    def _measure_frames(self, seconds: float, now: float) -> None:
        if not self.fewer:
            return
        if now - self._fewer_wanted_at > _FEWER_UNUSED_S:
            self.fewer, self._told, self._dependencies = [], NOTHING_KNOWN, Dependencies()
            self._newest = None
            return
        told = any(self._frames)
        if told or self.is_alive(now):
            self._untold_s = 0.0 if told else self._untold_s + seconds
        self._frame_rates = [count / seconds for count in itertools.accumulate(self._frames)] if told else []
        self._frames = [0] * MAX_TEMPORAL_LAYERS
        for layer in self.fewer:
            layer.measure(now)
            layer.history.expire(now)

    def tell(self, packet: RtpPacket, frame: Told) -> Told:
        """Take note of the frame of a packet that is to be forwarded; return what is known of it.

        `frame`: what its payload says; a dependency descriptor says more.
        """
        named = self.track.dependency_id
        value = (
            next((value for number, value in packet.extensions() if number == named), b"") if named else b""
        )
        told = self._told = self._dependencies.read(value) if value else frame
        if self._newest is not None and is_late(packet.sequence, self._newest):
            self._told = told._replace(begins=False)  # too late for anybody to begin with
        else:
            self._newest = packet.sequence
        if told.begins and told.temporal >= 0:
            self._frames[told.temporal] += 1
        return told

    def begin_again(self, now: float) -> None:
        """Measure from now on: the silence before is not of this rate."""
        self._measured_at, self._octets_before = now, self.reception.octets

    def take_fraction_lost(self) -> int:
        """Return the loss since this was last asked, in 1/256, and keep it as `loss`."""
        fraction = self.reception.take_fraction_lost()
        self.loss = fraction / 256
        return fraction

    def is_alive(self, now: float) -> bool:
        """Tell whether packets of it come."""
        return now - self.last_packet_at < LAYER_SILENT_S

    def note_keyframe(self, codec: str, payload: bytes) -> None:
        """Take the size of the picture from the beginning of a keyframe, where it stands there."""
        size = frame_size(codec, payload)
        if size is not None:
            self.width, self.height = size


def by_quality(layers: Iterable[Layer]) -> list[Layer]:
    """Return layers from the smallest picture to the largest; by their cost where sizes are not known."""
    found = list(layers)
    if all(layer.height for layer in found):
        return sorted(found, key=lambda layer: (layer.width * layer.height, layer.nominal_bps))
    return sorted(found, key=lambda layer: layer.nominal_bps)


class Track:
    """A published track; its layers come into being with their first packets."""

    def __init__(
        self,
        track_id: str,
        mid: str,
        kind: str,
        source: str,
        *,
        name: str,
        muted: bool,
        request_keyframe: Callable[[Layer, bool], None],
    ) -> None:
        self.id, self.mid, self.kind, self.source, self.name, self.muted = (
            track_id,
            mid,
            kind,
            source,
            name,
            muted,
        )
        # What was agreed with the publisher; replaced when it negotiates again.
        self.codecs: dict[int, Codec] = {}
        self.extensions: dict[int, str] = {}
        self.layers: dict[str, Layer] = {}
        # Somebody who looks after the room keeps it from being heard or seen.
        self.is_silenced = False
        # Set when its publisher is to be told at once which encodings are wanted.
        self.is_hint_due = False
        self._attended_at = float("-inf")
        self.level = AudioLevel()
        self.fan_out: FanOut[Layer] = FanOut()
        # Tells the publisher's peer of a wish; True when the request is to go out now.
        self._request_keyframe = request_keyframe

    def agree(self, codecs: dict[int, Codec], extensions: dict[int, str], now: float) -> None:
        """Take over what was agreed with the publisher; the legs map it anew."""
        if (codecs, extensions) != (self.codecs, self.extensions):
            self.codecs, self.extensions = codecs, extensions
            for leg in self.fan_out.legs:
                leg.format_changed(now)

    @property
    def dependency_id(self) -> int:
        """Id of the dependency descriptor in the header extension; 0 where none was agreed."""
        return next((n for n, uri in self.extensions.items() if uri == DEPENDENCY_DESCRIPTOR_URI), 0)

    def primary_codec(self) -> Codec | None:
        """Return the codec that the publisher prefers."""
        return next(iter(self.codecs.values()), None)

    def best_layer(self, now: float, shown: Layer | None = None) -> Layer | None:
        """Return the layer with the highest rate among those alive; the shown one wins ties."""
        alive = [layer for layer in self.layers.values() if now - layer.last_packet_at < LAYER_SILENT_S]
        if not alive:
            return shown if shown in self.layers.values() else next(iter(self.layers.values()), None)
        best = max(alive, key=lambda layer: layer.bitrate_bps)
        if shown is not None and shown in alive and best.bitrate_bps < shown.bitrate_bps * _CLEARLY_MORE:
            return shown
        return best

    def ladder(self, now: float) -> list[Layer]:
        """Return the layers that could be sent, cheapest first: those alive, and those that sleep."""
        there = [
            layer
            for layer in self.layers.values()
            if layer.is_alive(now) or layer.is_asleep or now - layer.woken_at < _AWAITED_S
        ]
        for rank, layer in enumerate(there):
            if not layer.nominal_bps and len(self.layers) > 1:
                layer.nominal_bps = _GUESSED_BPS[min(rank, len(_GUESSED_BPS) - 1)]
        found = by_quality(there)
        for below, above in itertools.pairwise(found):
            # One that went to sleep while its encoder began was not seen at what it costs.
            if above.is_asleep:
                above.nominal_bps = max(above.nominal_bps, below.nominal_bps * _CLEARLY_MORE)
        return found or list(self.layers.values())[:1]

    def options(self, now: float) -> tuple[LayerOption, ...]:
        """Return what could be sent, cheapest first: the layers, and the lowest of them with fewer frames."""
        ladder = self.ladder(now)
        thin = [(x, bps, highest) for x in ladder[:1] for highest, bps in x.thinner()]
        whole = [(x, x.nominal_bps, None) for x in ladder]
        return tuple([LayerOption(x.rid, bps, x.width, x.height, top) for x, bps, top in [*thin, *whole]])

    def layer_for(self, rid: str, shown: Layer | None, now: float) -> Layer | None:
        """Return the layer of a rid, or what stands in for it until it is there."""
        wanted = self.layers.get(rid)
        if wanted is None:
            return self.best_layer(now, shown)
        wanted.used_at = now
        if wanted.is_asleep:
            wanted.is_asleep, wanted.woken_at, self.is_hint_due = False, now, True
            self.want_keyframe(wanted, now)
        if wanted.is_alive(now):
            return wanted
        if shown is not None and shown.is_alive(now):
            return shown
        alive = [layer for layer in self.layers.values() if layer.is_alive(now)]
        ranked = by_quality({*alive, wanted})
        at = ranked.index(wanted)
        below, above = ranked[:at], ranked[at + 1 :]
        return below[-1] if below else next(iter(above), wanted)

    def take_hint(self, now: float) -> list[str] | None:
        """Return the rids that its publisher should send, if that is not what it was told last.

        Of a track with one encoding that encoding's rid is the empty string.
        """
        for leg in self.fan_out.legs:
            self._attended_at = now
            for layer in (leg.layer, leg.target):
                if layer is not None:
                    layer.base.used_at = now
        lowest = next(iter(by_quality(self.layers.values())), None)
        changed, self.is_hint_due = self.is_hint_due, False
        for layer in self.layers.values():
            idle = now - layer.used_at if layer is not lowest else now - self._attended_at - ABANDONED_S
            if layer.is_asleep or not layer.is_alive(now):
                continue
            if idle > UNUSED_S:
                layer.is_asleep = changed = True
        return [layer.rid for layer in self.layers.values() if not layer.is_asleep] if changed else None

    def forward(self, layer: Layer, packet: RtpPacket, now: float) -> None:
        """Send a packet of a layer to everybody who receives it."""
        if layer.fewer:
            self._forward_fewer(layer, packet, now)
        self.fan_out.forward(layer, packet, now)
        packet.bodies = {}  # few are asked for again, and then they are built again

    def _forward_fewer(self, layer: Layer, packet: RtpPacket, now: float) -> None:
        """Send a packet to those who take fewer frames of its layer.

        Fewest first, and all before those who take every frame: who goes over to fewer gets a packet once.
        """
        codec = self.codecs.get(packet.payload_type)
        ids = describe(packet.peek(6)) if codec is not None and codec.name == "vp8" else NOTHING_TOLD
        told = layer.tell(packet, ids.frame)
        if told.temporal < 0:
            return
        for fewer in layer.fewer:
            taken = fewer.thinning.take(packet, told, ids) if fewer.thinning is not None else None
            if taken is not None and fewer.history.add(taken, now):
                fewer.last_packet_at = now
                fewer.reception.octets += len(taken.data)
                self.fan_out.forward(fewer, taken, now)
                taken.bodies = {}

    def want_keyframe(self, layer: Layer, now: float) -> None:
        """Ask the publisher, unless it was asked a moment ago."""
        layer = layer.base
        if self.kind == "video":
            self._request_keyframe(layer, layer.keyframes.want(now))

    def layer_awoke(self, layer: Layer, now: float) -> None:
        """A layer comes again after a silence: whoever wants it takes it."""
        # Whoever wants it has as long to take it as when it came first.
        layer.last_packet_at, layer.used_at, layer.is_asleep = now, now, False
        layer.begin_again(now)
        for leg in self.fan_out.legs:
            leg.layers_changed(now)

    def add_layer(self, layer: Layer, now: float) -> None:
        """Take an encoding in; one of the same rid gives way. The legs look again."""
        layer.last_packet_at = layer.used_at = now
        if not self.layers:
            self._attended_at = now
        layer.measure(now)
        replaced = self.layers.get(layer.rid)
        if replaced is not None:
            replaced.fewer = []  # its parts know it: a circle
        self.layers[layer.rid] = layer
        for leg in self.fan_out.legs:
            leg.layers_changed(now)

    def end(self) -> None:
        """Let go of the layers, and of their parts, which know them."""
        for layer in self.layers.values():
            layer.fewer = []
        self.layers.clear()
