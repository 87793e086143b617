"""A track and its layers: which one to show, and when to ask for a keyframe."""

import pytest

from sfu.media.track import LAYER_SILENT_S
from tests.unit.media.scene import VP8, VP8_RTX, Wishes, layer, track


class Leg:
    """A receiver that notes when it is told to choose again."""

    def __init__(self) -> None:
        self.told: list[float] = []

    def forward(self, layer, packet, now):
        raise AssertionError("no packet was sent")

    def layers_changed(self, now):
        self.told.append(now)


def test_a_track_knows_its_preferred_codec():
    """The first one; none before it was negotiated."""
    assert track().primary_codec() is VP8
    assert track(codecs=(VP8_RTX, VP8)).primary_codec() is VP8_RTX
    assert track(codecs=()).primary_codec() is None


def test_a_new_layer_makes_the_legs_choose():
    """And it counts as alive from now on."""
    published, leg = track(), Leg()
    published.fan_out.add(leg)
    made = layer(published, "q", now=5.0)
    assert leg.told == [5.0]
    assert published.layers == {"q": made}
    assert made.last_packet_at == 5.0


def test_a_layer_of_the_same_rid_gives_way():
    """The client began again with a new SSRC."""
    published = track()
    layer(published, "q", 1)
    again = layer(published, "q", 2)
    assert published.layers == {"q": again}


def test_the_rate_is_measured_each_second():
    """The first tells it, then half is the newest's; a measure at the same moment changes nothing."""
    published = track()
    made = layer(published)
    made.measure(0.0)
    assert made.bitrate_bps == 0
    made.reception.receive(1, 0, 1000, 0.5)
    made.measure(1.0)
    assert made.bitrate_bps == pytest.approx(8000)
    made.measure(1.0)
    assert made.bitrate_bps == pytest.approx(8000)
    made.measure(2.0)
    assert made.bitrate_bps == pytest.approx(4000)


def with_rates(**rates: float):
    published = track()
    for ssrc, (rid, rate) in enumerate(rates.items()):
        layer(published, rid, ssrc).bitrate_bps = rate
    return published


def test_the_fastest_layer_alive_is_the_best():
    """A silent one is not a layer to show."""
    published = with_rates(q=100, h=300, f=900)
    assert published.best_layer(0.5).rid == "f"
    published.layers["h"].last_packet_at = published.layers["q"].last_packet_at = 2.0
    assert published.best_layer(LAYER_SILENT_S + 1).rid == "h"


def test_the_shown_layer_wins_a_tie():
    """Another must be clearly more."""
    published = with_rates(h=1000, f=1200)
    shown = published.layers["h"]
    assert published.best_layer(0.0, shown) is shown
    published.layers["f"].bitrate_bps = 1300
    assert published.best_layer(0.0, shown).rid == "f"
    shown.last_packet_at = -10.0
    published.layers["f"].bitrate_bps = 10
    assert published.best_layer(0.0, shown).rid == "f"


def test_a_silent_track_keeps_what_is_shown():
    """Or names any layer that it has; one that is gone is not named."""
    published = with_rates(q=100, h=300)
    shown = published.layers["h"]
    assert published.best_layer(100.0, shown) is shown
    assert published.best_layer(100.0).rid == "q"
    gone = shown
    again = layer(published, "h", 9, now=-100.0)
    assert published.best_layer(100.0, gone) in (published.layers["q"], again)
    assert track().best_layer(0.0) is None


def test_keyframes_are_asked_for_of_video_only():
    """Each wish is passed on, with whether to ask now."""
    wishes = Wishes()
    published = track(wishes)
    made = layer(published)
    published.want_keyframe(made, 0.0)
    published.want_keyframe(made, 0.1)
    assert wishes.asked == [(made, True), (made, False)]
    voice = track(wishes, "audio")
    voice.want_keyframe(layer(voice), 0.0)
    assert len(wishes.asked) == 2
