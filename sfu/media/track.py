"""What somebody publishes: a track, and its encodings (layers)."""

from collections.abc import Callable
from dataclasses import dataclass

from sfu.media.audio_level import AudioLevel
from sfu.media.codecs import Codec
from sfu.media.fan_out import FanOut
from sfu.media.history import History
from sfu.media.keyframes import KeyframeRequests
from sfu.media.nack import NackGenerator
from sfu.media.reception import Reception

# A layer from which nothing came for so long is not a layer to show.
LAYER_SILENT_S = 1.0

# A layer must be this much larger than the shown one to take its place.
_CLEARLY_MORE = 1.25

# Weight of the newest second in the rate of a layer.
_RATE_SMOOTHING = 0.5


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
        self.bitrate_bps = 0.0
        self._octets_before = 0
        self._measured_at: float | None = None

    def measure(self, now: float) -> None:
        """Update the bitrate; called about once a second."""
        if self._measured_at is not None and now > self._measured_at:
            rate = (self.reception.octets - self._octets_before) * 8 / (now - self._measured_at)
            self.bitrate_bps += (rate - self.bitrate_bps) * _RATE_SMOOTHING
        self._measured_at, self._octets_before = now, self.reception.octets


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

    def want_keyframe(self, layer: Layer, now: float) -> None:
        """Ask the publisher, unless it was asked a moment ago."""
        if self.kind == "video":
            self._request_keyframe(layer, layer.keyframes.want(now))

    def add_layer(self, layer: Layer, now: float) -> None:
        """Take an encoding in; one of the same rid gives way. The legs look again."""
        layer.last_packet_at = now
        self.layers[layer.rid] = layer
        for leg in self.fan_out.legs:
            leg.layers_changed(now)
