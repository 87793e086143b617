"""The registry in which Prometheus finds the counters.

The packet path adds to plain integers (sfu/counters.py); a collector reads them when it is asked.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sfu.counters import MediaCounters


class LinkQuality(Protocol):
    """How one peer is connected; None where nobody knows."""

    @property
    def score(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def round_trip_s(self) -> float | None: ...
    @property
    def jitter_s(self) -> float: ...
    @property
    def bitrate_bps(self) -> float: ...
    @property
    def estimate_bps(self) -> float | None: ...


_LINK_FIGURES = {
    "loss": "packets lost between server and peer, 0 to 1",
    "round_trip_s": "round trip to the peer, seconds",
    "jitter_s": "jitter that the peer sees, seconds",
    "bitrate_bps": "what a peer receives, bits a second",
    "estimate_bps": "what the link to a peer is thought to take, bits a second",
}
_STALL = {
    "sfu_worst_stall_seconds": "how late the loop came at worst in the last two minutes",
    "sfu_worst_stall_computed_seconds": "for how long it had computed when it came that late",
    "sfu_worst_stall_waited_seconds": "for how long it had waited for a core when it came that late",
}
_QUANTILES = (0.5, 0.9, 0.99)


class _MediaCollector(Collector):
    def __init__(self, counters: MediaCounters) -> None:
        self._counters = counters
        # Live objects, as functions so that nobody has to keep a gauge in step.
        self.peers = self.rooms = self.tracks = lambda: 0
        self.tasks: Callable[[], int] = lambda: 0
        # How late the loop came; of that, how long it computed, and how long it waited for a core.
        self.worst_stall: Callable[[], tuple[float, float, float]] = lambda: (0.0, 0.0, 0.0)
        self.store_is_there: Callable[[], bool] = lambda: True
        self.bus_is_there: Callable[[], bool] = lambda: True
        self.links: Callable[[], Sequence[LinkQuality]] = lambda: ()
        # Slots with a picture in them, by what their link lets them show: all, less, nothing.
        self.video_slots: Callable[[], Mapping[str, int]] = dict

    def collect(self) -> Iterator[Metric]:
        counters = self._counters
        for name in (field.name for field in fields(counters)):
            if name != "dropped":
                yield CounterMetricFamily(
                    f"sfu_{name}", name.replace("_", " "), value=getattr(counters, name)
                )
        dropped = CounterMetricFamily("sfu_packets_dropped", "packets dropped, by reason", labels=["reason"])
        for reason, count in counters.dropped.items():
            dropped.add_metric([reason], count)
        yield dropped
        for name, what, value in zip(_STALL, _STALL.values(), self.worst_stall(), strict=True):
            yield GaugeMetricFamily(name, what, value=value)
        yield GaugeMetricFamily("sfu_store_up", "whether the database answers", value=self.store_is_there())
        yield GaugeMetricFamily("sfu_bus_up", "whether the bus is connected", value=self.bus_is_there())
        for name in ("peers", "rooms", "tracks", "tasks"):
            yield GaugeMetricFamily(f"sfu_{name}", f"{name} now", value=getattr(self, name)())
        meaning = "pictures that people get, by how much of what they asked for"
        slots = GaugeMetricFamily("sfu_video_slots", meaning, labels=["shows"])
        for shows, count in self.video_slots().items():
            slots.add_metric([shows], count)
        yield slots
        yield from self._collect_links(self.links())

    def _collect_links(self, links: Sequence[LinkQuality]) -> Iterator[Metric]:
        scores = GaugeMetricFamily("sfu_peers_by_score", "peers by quality, 1 to 5", labels=["score"])
        for score in range(1, 6):
            scores.add_metric([str(score)], sum(link.score == score for link in links))
        yield scores
        for name, meaning in _LINK_FIGURES.items():
            figures = sorted(x for x in (getattr(link, name) for link in links) if x is not None)
            family = GaugeMetricFamily(f"sfu_peer_{name}", meaning, labels=["quantile"])
            for quantile in _QUANTILES if figures else ():
                index = min(len(figures) - 1, int(quantile * len(figures)))
                family.add_metric([str(quantile)], figures[index])
            yield family


class Metrics:
    """The registry of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.media = MediaCounters()
        self.live = _MediaCollector(self.media)
        self.registry.register(self.live)
        ProcessCollector(registry=self.registry)
        self.sockets = Gauge("sfu_sockets", "WebSockets open now", registry=self.registry)
        self.calls = Counter("sfu_calls", "calls ended, by reason", ["end_reason"], registry=self.registry)
        self.auth_failures = Counter("sfu_auth_failures", "tokens refused", registry=self.registry)
        self.ring_s = Histogram(
            "sfu_ring_seconds",
            "ringing until answered",
            buckets=(1, 2, 5, 10, 20, 30, 60),
            registry=self.registry,
        )
