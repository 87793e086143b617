"""What somebody publishes: a track, and its encodings (layers)."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from sfu.media.allocation import Extent, LayerOption
from sfu.media.audio_level import AudioLevel
from sfu.media.codecs import KEYFRAME_PEEK_BYTES, Codec, frame_size
from sfu.media.dependency import has_structure
from sfu.media.fan_out import FanOut
from sfu.media.history import History
from sfu.media.keyframes import KeyframeRequests
from sfu.media.nack import NackGenerator
from sfu.media.negotiation import DEPENDENCY_DESCRIPTOR_URI
from sfu.media.packet import RtpPacket
from sfu.media.picture_ids import NOTHING_TOLD, Descriptor, describe
from sfu.media.reception import Reception
from sfu.media.scalability import LEAVING_OUT, Scalability
from sfu.media.thinning import WHOLE, Thinning

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

# When nobody wanted a part of an encoding for so long, none is prepared.
_PART_UNUSED_S: Final = 10.0

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
        # Where it is a part of another one: that one, and how the rest is left out.
        self._base: Layer | None = None
        self.thinning: Thinning | None = None
        # What is known of its spatial and temporal layers, as long as somebody wants to know.
        self.scalability = Scalability()
        self.is_listened_to = False
        self._listened_at = float("-inf")
        # Its parts that somebody takes, by spatial and temporal layer up to which they go.
        self.parts: dict[tuple[int, int], Layer] = {}

    @property
    def base(self) -> "Layer":
        """The encoding that comes from the publisher: this one, or the one of which this is a part."""
        return self._base if self._base is not None else self

    @property
    def spatial(self) -> int | None:
        """The highest spatial layer of it; None where they are not told apart."""
        known = self.base.scalability
        if known.spatial_layers == 1:
            return None
        taken = self.thinning.spatial if self.thinning is not None else WHOLE
        return taken if taken != WHOLE else known.highest

    @property
    def temporal(self) -> int:
        """The temporal layer above which frames are left out; WHOLE: none are."""
        return self.thinning.temporal if self.thinning is not None else WHOLE

    def options(self, *, is_lowest: bool) -> list[LayerOption]:
        """Return what of it could be sent, cheapest first; `is_lowest`: with fewer frames, too."""
        known, rid, cost = self.scalability, self.rid, self.nominal_bps
        width, height = self.width, self.height
        thin = known.thinner(is_described=self.track.dependency_id > 0) if is_lowest else []
        if known.spatial_layers == 1:
            fewer = [LayerOption(rid, cost * known.share(top), width, height, Extent(top)) for top in thin]
            return [*fewer, LayerOption(rid, cost, width, height)]
        sizes = known.sizes or ((width, height),) * known.spatial_layers
        found = [LayerOption(rid, cost * known.share(top, 0), *sizes[0], Extent(top, 0)) for top in thin]
        for spatial in range(known.highest + 1):
            bps = cost * known.share(WHOLE, spatial)
            found.append(LayerOption(rid, bps, *sizes[spatial], Extent(None, spatial)))
        return found

    def listen(self, now: float) -> None:
        """Read from now on what is told of spatial and temporal layers."""
        self._listened_at = now
        if not self.is_listened_to:
            self.is_listened_to = True
            self.scalability.begin_again()

    def part_for(self, shown: "Layer | None", extent: Extent, max_fps: int | None, now: float) -> "Layer":
        """Return this, or the part of it that somebody is to get who is shown something of it, or nothing.

        `extent`: what his link takes; `max_fps`: frames in a second that he has use for; None: all. More
        frames come a step at a time. What an encoder does not tell apart stays as it is, and so it does until
        that is known.
        """
        known, was_heard = self.scalability, self.is_listened_to
        self.listen(now)
        if not was_heard and self.track.dependency_id:  # what its descriptors mean stands in a keyframe
            self.track.want_keyframe(self, now)
        of_this = shown if shown is not None and shown.base is self else None
        before = of_this.temporal if of_this is not None else WHOLE
        top = known.up_to(max_fps, extent.temporal) if known.frame_rates else before
        is_apart = known.spatial_layers > 1
        size = known.highest if extent.spatial is None else min(extent.spatial, known.highest)
        if of_this is not None and not of_this.lacks(size):
            top = min(top, next((step for step in (*LEAVING_OUT, WHOLE) if step > before), WHOLE))
        if top == WHOLE and (not is_apart or (size == known.highest and known.is_nested)):
            return self
        place = (size if is_apart else WHOLE, top)
        part = self.parts.get(place)
        if part is None:
            part = self.parts[place] = self._part(place[0], top)
        part.used_at = now
        return part

    def _part(self, spatial: int, temporal: int) -> "Layer":
        made = Layer(self.track, self.rid, self.ssrc, 90_000)
        made._base, made.thinning = self, Thinning(temporal, spatial)
        sizes = self.scalability.sizes
        made.width, made.height = sizes[spatial] if spatial < len(sizes) else (self.width, self.height)
        return made

    @property
    def is_told_apart(self) -> bool:
        """Whether it is known of the packet that is being forwarded of which layers it is."""
        return self.base.scalability.told.temporal >= 0

    def lacks(self, spatial: int | None) -> bool:
        """Tell whether only a keyframe lets a picture of another spatial layer follow this one."""
        before = self.spatial
        if before is None or spatial is None or spatial == before:
            return False
        # Who was sent every layer, or gets them all anyway, has what smaller pictures need.
        return spatial > before or not (self.thinning is None or self.base.scalability.is_nested)

    def follows(self, shown: "Layer") -> bool:
        """Tell whether this goes on from this packet on where another part of the same was shown.

        Less needs nothing that was not sent; more frames begin where nothing is needed of those left out, and
        a larger picture with a keyframe.
        """
        told = self.base.scalability.told
        if not told.begins or told.is_key:
            return told.begins
        if shown.lacks(self.spatial):
            return False
        return self.temporal <= shown.temporal or (told.is_sync and told.temporal == shown.temporal + 1)

    def measure(self, now: float) -> None:
        """Update the bitrate; called about once a second."""
        if self._measured_at is not None and now > self._measured_at:
            rate = (self.reception.octets - self._octets_before) * 8 / (now - self._measured_at)
            self.bitrate_bps += (rate - self.bitrate_bps) * (_RATE_SMOOTHING if self.bitrate_bps else 1.0)
            if now - self.last_packet_at < LAYER_SILENT_S:
                # Encoders start low and follow what they show: a still picture is not what a layer costs.
                self.nominal_bps = max(self.bitrate_bps, self.nominal_bps * _NOMINAL_DECAY)
            self._measure_parts(now - self._measured_at, now)
        self._measured_at, self._octets_before = now, self.reception.octets

    def _measure_parts(self, seconds: float, now: float) -> None:
        if not self.is_listened_to:
            return
        known = self.scalability
        if now - self._listened_at > _PART_UNUSED_S and known.spatial_layers == 1:
            self.parts, self.is_listened_to = {}, False
            return
        if known.measure(seconds, is_alive=self.is_alive(now)):
            self.track.layers_differ(now)
        for place, part in list(self.parts.items()):
            part.measure(now)
            part.history.expire(now)
            if now - part.used_at > _PART_UNUSED_S:
                del self.parts[place]

    def _descriptor(self, packet: RtpPacket) -> bytes:
        """Return the dependency descriptor of a packet; empty if it has none."""
        named = self.track.dependency_id
        return (
            next((value for number, value in packet.extensions() if number == named), b"") if named else b""
        )

    def take_apart(self, packet: RtpPacket, ids: Descriptor, now: float) -> "list[tuple[Layer, RtpPacket]]":
        """Return what goes out of a packet that is to be forwarded, by part; this layer itself comes last.

        `ids`: what its payload says, where it is VP8.
        """
        known = self.scalability
        if known.tell(packet, self._descriptor(packet), ids.frame):
            if known.sizes:
                self.width, self.height = known.sizes[-1]
            self.track.layers_differ(now)
        found: list[tuple[Layer, RtpPacket]] = []
        if known.told.temporal >= 0:
            for part in self.parts.values():
                assert part.thinning is not None
                taken = part.thinning.take(packet, known.told, ids)
                if taken is not None and part.history.add(taken, now):
                    part.last_packet_at = now
                    part.reception.octets += len(taken.data)
                    found.append((part, taken))
        found.append((self, packet))
        return found

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

    def note_keyframe(self, codec: str, packet: RtpPacket, now: float) -> None:
        """Take the size of the picture from the first packet of a keyframe, or listen to its descriptor."""
        size = frame_size(codec, packet.peek(KEYFRAME_PEEK_BYTES))
        if size is not None:
            self.width, self.height = size
        elif has_structure(self._descriptor(packet)):
            self.listen(now)


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
        """Return what could be sent, cheapest first: parts of layers; of the lowest fewer frames, too."""
        ladder = self.ladder(now)
        found = [x for rank, layer in enumerate(ladder) for x in layer.options(is_lowest=rank == 0)]
        return tuple(found)

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
                    layer.used_at = layer.base.used_at = now
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
        """Send a packet of a layer to everybody who receives it, or a part of it."""
        if layer.is_listened_to:
            codec = self.codecs.get(packet.payload_type)
            ids = describe(packet.peek(6)) if codec is not None and codec.name == "vp8" else NOTHING_TOLD
            self.fan_out.forward_parts(layer.take_apart(packet, ids, now), now)
        else:
            self.fan_out.forward(layer, packet, now)
        packet.bodies = {}  # few are asked for again, and then they are built again

    def layers_differ(self, now: float) -> None:
        """Let the legs choose again: there are other layers than there were."""
        for leg in self.fan_out.legs:
            leg.layers_changed(now)

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
        self.layers_differ(now)

    def add_layer(self, layer: Layer, now: float) -> None:
        """Take an encoding in; one of the same rid gives way. The legs look again."""
        layer.last_packet_at = layer.used_at = now
        if not self.layers:
            self._attended_at = now
        layer.measure(now)
        replaced = self.layers.get(layer.rid)
        if replaced is not None:
            replaced.parts = {}  # they know it: a circle
        self.layers[layer.rid] = layer
        self.layers_differ(now)

    def end(self) -> None:
        """Let go of the layers, and of their parts, which know them."""
        for layer in self.layers.values():
            layer.parts = {}
        self.layers.clear()
