"""What Prometheus is told of the links to people."""

from dataclasses import dataclass

from prometheus_client import generate_latest

from sfu.metrics import Metrics


@dataclass
class Link:
    score: int
    loss: float
    round_trip_s: float | None
    jitter_s: float = 0.01
    bitrate_bps: float = 1e6
    estimate_bps: float | None = None


def told(metrics: Metrics) -> dict[str, float]:
    lines = generate_latest(metrics.registry).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def test_links_are_told_by_score_and_by_quantile():
    """What nobody knows of a peer is left out of its figure, not counted as nothing."""
    metrics = Metrics()
    links = [Link(5, n / 100, None if n < 90 else n / 1000) for n in range(99)]
    metrics.live.links = lambda: [*links, Link(2, 0.99, 0.5)]
    figures = told(metrics)
    assert figures['sfu_peers_by_score{score="5"}'] == 99
    assert figures['sfu_peers_by_score{score="2"}'] == 1
    assert figures['sfu_peers_by_score{score="1"}'] == 0
    assert figures['sfu_peer_loss{quantile="0.5"}'] == 0.5
    assert figures['sfu_peer_loss{quantile="0.99"}'] == 0.99
    assert figures['sfu_peer_round_trip_s{quantile="0.5"}'] == 0.095
    assert not any(name.startswith("sfu_peer_estimate_bps{") for name in figures)


def test_pictures_are_told_by_how_much_of_them_people_get():
    metrics = Metrics()
    metrics.live.video_slots = lambda: {"all": 7, "less": 2, "nothing": 1}
    figures = told(metrics)
    assert figures['sfu_video_slots{shows="all"}'] == 7
    assert figures['sfu_video_slots{shows="less"}'] == 2
    assert figures['sfu_video_slots{shows="nothing"}'] == 1


def test_without_links_there_are_no_figures():
    figures = told(Metrics())
    assert sum(value for name, value in figures.items() if name.startswith("sfu_peers_by_score")) == 0
    assert not any(name.startswith("sfu_peer_loss{") for name in figures)


def test_drops_are_told_with_their_reasons():
    metrics = Metrics()
    metrics.media.drop("socket_full", 3)
    assert told(metrics)['sfu_packets_dropped_total{reason="socket_full"}'] == 3
