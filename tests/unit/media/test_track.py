"""A track and its layers: which to show, which to send at all, and when to ask for a keyframe."""

import pytest

from sfu.media import leg as legs
from sfu.media.track import ABANDONED_S, LAYER_SILENT_S, UNUSED_S, Layer, Track
from tests.unit.media.scene import (
    SENDING,
    VP8,
    VP8_KEY,
    VP8_RTX,
    Outlet,
    Wishes,
    layer,
    offer,
    rtp,
    slot,
    track,
)


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


# What could be sent


def published_with(wishes: Wishes | None = None, **rates: float) -> Track:
    """A track whose layers came at 0 and cost this much."""
    made = track(wishes)
    for ssrc, (rid, rate) in enumerate(rates.items(), 1):
        layer(made, rid, ssrc).nominal_bps = rate
    return made


def rids(layers: list[Layer]) -> list[str]:
    return [each.rid for each in layers]


def keep_alive(published: Track, now: float, *names: str) -> None:
    """Let packets of some layers have come just now."""
    for name in names:
        published.layers[name].last_packet_at = now


def test_a_ladder_goes_from_the_cheapest_to_the_dearest():
    """Whatever the order in which the layers came."""
    assert rids(published_with(f=900, q=100, h=300).ladder(0.5)) == ["q", "h", "f"]


def test_a_larger_picture_stands_above_a_smaller_one_whatever_was_measured():
    """An encoder that has just begun sends little; asleep since then it would never be asked for again."""
    published = published_with(f=300_000, q=150_000, h=450_000)
    for rid, height in (("q", 180), ("h", 360), ("f", 720)):
        published.layers[rid].width, published.layers[rid].height = height * 16 // 9, height
    assert rids(published.ladder(0.5)) == ["q", "h", "f"]
    assert published.layers["f"].nominal_bps == 300_000, "it is sent: what is measured counts"
    published.layers["f"].is_asleep = True
    keep_alive(published, 50.0, "q", "h")
    assert rids(published.ladder(50.0)) == ["q", "h", "f"]
    assert published.layers["f"].nominal_bps > 450_000
    published.layers["h"].height = 0
    published.layers["f"].nominal_bps = 300_000
    assert rids(published.ladder(50.0)) == ["q", "f", "h"], "of what size is not known the cost decides"


def test_what_is_silent_is_not_on_the_ladder():
    """Unless it sleeps, or was asked for a moment ago: then it will come."""
    published = published_with(q=100, h=300, f=900, x=1200)
    keep_alive(published, 50.0, "q")
    assert rids(published.ladder(50.0)) == ["q"]
    published.layers["h"].is_asleep = True
    published.layers["f"].woken_at = 49.0
    assert rids(published.ladder(50.0)) == ["q", "h", "f"]
    keep_alive(published, 53.0, "q")
    assert rids(published.ladder(53.0)) == ["q", "h"]


def test_of_a_silent_track_one_layer_stands_on_the_ladder():
    """So that a slot is not empty for good; a track that never sent has none."""
    assert rids(published_with(q=100, h=300).ladder(50.0)) == ["q"]
    assert track().ladder(0.0) == []


def test_what_was_not_measured_yet_is_guessed_by_its_rank():
    """Each more than the one below; what is known stays, and a layer alone is not guessed."""
    published = published_with(q=0, h=0, f=0, x=0, y=0)
    costs = [each.nominal_bps for each in published.ladder(0.0)]
    assert costs[0] > 0
    assert costs[0] < costs[1] < costs[2] < costs[3] == costs[4]
    known = published_with(q=0, h=777_000)
    assert [each.nominal_bps for each in known.ladder(0.0)] == [costs[0], 777_000]
    assert [each.nominal_bps for each in published_with(f=0).ladder(0.0)] == [0]


def test_a_layer_that_is_there_is_shown_when_it_is_wanted():
    """Also a dearer one beside the shown one; its use is noted."""
    published = published_with(q=100, h=300)
    wanted = published.layers["q"]
    assert published.layer_for("q", published.layers["h"], 0.5) is wanted
    assert wanted.used_at == 0.5
    assert not published.is_hint_due


def test_an_unknown_layer_is_stood_in_for_by_the_best():
    """The publisher began again without it."""
    published = with_rates(q=100, h=300)
    assert published.layer_for("f", None, 0.5).rid == "h"


def test_a_layer_that_is_silent_is_stood_in_for():
    """By what is shown if that is there, else by the best below it, else by the least above."""
    published = published_with(q=100, h=300, f=900, x=1200)
    keep_alive(published, 50.0, "q", "h", "x")
    layers = published.layers
    assert published.layer_for("f", layers["x"], 50.0) is layers["x"]
    assert published.layer_for("f", None, 50.0) is layers["h"]
    keep_alive(published, 60.0, "x")
    assert published.layer_for("f", layers["h"], 60.0) is layers["x"]
    assert published.layer_for("f", layers["h"], 70.0) is layers["f"]


def test_a_sleeping_layer_that_is_wanted_is_asked_for():
    """Its publisher is told at once, with a wish for a keyframe; once, not with every look."""
    wishes = Wishes()
    published = published_with(wishes, q=100, f=900)
    wanted = published.layers["f"]
    wanted.is_asleep = True
    keep_alive(published, 20.0, "q")
    assert published.layer_for("f", None, 20.0) is published.layers["q"]
    assert (published.is_hint_due, wanted.is_asleep, wanted.used_at) == (True, False, 20.0)
    assert wishes.asked == [(wanted, True)]
    assert published.take_hint(20.0) == ["q", "f"]
    assert published.layer_for("f", None, 20.5) is published.layers["q"]
    assert published.take_hint(20.5) is None
    assert len(wishes.asked) == 1


# What nobody takes


class Audience:
    """A track of three layers that its publisher keeps sending as it is told, seen second by second."""

    def __init__(self, *names: str) -> None:
        self.wishes, self.now = Wishes(), 0.0
        self.track = published_with(
            self.wishes, **dict(zip(names or ("q", "h", "f"), (100, 300, 900), strict=False))
        )
        # What its publisher was told last; it begins with all. And what it cannot send at the moment.
        self.active, self.unable = list(self.track.layers), set()
        self.told: list[tuple[float, list[str]]] = []

    def watch(self, rid: str) -> legs.Leg:
        """Return a receiver that shows a layer."""
        leg = legs.Leg(slot(), SENDING, Outlet(), 1, changed=lambda: None)
        leg.attach(self.track, self.now)
        leg.allot(rid, self.now)
        shown = self.track.layers[rid]
        offer(leg, shown, rtp(1, VP8_KEY), self.now)
        assert leg.layer is shown
        return leg

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 2)):
            self.now += 0.5
            for rid in [rid for rid in self.active if rid not in self.unable]:
                made = self.track.layers[rid]
                if not made.is_alive(self.now):
                    self.track.layer_awoke(made, self.now)
                made.last_packet_at = self.now
            hint = self.track.take_hint(self.now)
            if hint is not None:
                self.active = hint
                self.told.append((self.now, hint))


def test_layers_that_nobody_takes_are_stopped():
    """After a while, and the publisher is told once."""
    audience = Audience()
    audience.watch("h")
    audience.run(UNUSED_S)
    assert audience.told == []
    audience.run(60)
    assert audience.told == [(UNUSED_S + 0.5, ["q", "h"])]


def test_the_lowest_layer_goes_on_while_somebody_is_there():
    """Whoever joins or loses his link has a picture at once, though now nobody takes it."""
    audience = Audience()
    audience.watch("f")
    audience.run(ABANDONED_S * 3)
    assert audience.active == ["q", "f"]


def test_a_layer_that_somebody_waits_for_is_not_stopped():
    """It is aimed at, its keyframe has not come yet."""
    audience = Audience()
    audience.watch("q").aim(audience.track.layers["f"], 0.0)
    audience.run(30)
    assert audience.active == ["q", "f"]


def test_when_nobody_is_there_the_lowest_layer_is_stopped_too():
    """Much later than the others; and comes again for the first who wants it."""
    audience = Audience()
    leg = audience.watch("f")
    audience.run(5)
    leg.detach()
    audience.run(ABANDONED_S - 1)
    assert audience.active == ["q"]
    audience.run(1.5 + UNUSED_S)
    assert audience.active == []
    audience.run(60)
    assert [active for _, active in audience.told] == [["q", "f"], ["q"], []]
    audience.wishes.asked.clear()
    assert audience.track.layer_for("q", None, audience.now).rid == "q"
    audience.run(0.5)
    assert audience.active == ["q"]
    assert [each.rid for each, _ in audience.wishes.asked] == ["q"]


def test_a_track_of_one_encoding_is_stopped_as_a_whole():
    """Its rid is the empty string; while somebody takes it, it goes on."""
    audience = Audience("")
    leg = audience.watch("")
    audience.run(100)
    assert audience.told == []
    leg.detach()
    audience.run(100)
    assert [active for _, active in audience.told] == [[]]


def test_a_layer_that_fell_silent_by_itself_is_not_stopped():
    """Its publisher would be told of what it does not send anyway."""
    audience = Audience()
    audience.watch("q")
    audience.unable = {"f"}
    audience.run(2 + UNUSED_S)
    assert audience.told == [(UNUSED_S + 0.5, ["q", "f"])]
    assert not audience.track.layers["f"].is_asleep


def test_a_layer_is_not_stopped_before_anybody_could_take_it():
    """What came a moment ago, or was asked for a moment ago, has its time."""
    audience = Audience("q", "h")
    audience.watch("q")
    audience.run(10)
    assert audience.active == ["q"]
    audience.track.layer_for("h", None, audience.now)
    audience.active = ["q", "h"]
    late = layer(audience.track, "f", 9, audience.now)
    late.nominal_bps = 900
    audience.active.append("f")
    audience.told.clear()
    audience.run(UNUSED_S)
    assert audience.active == ["q", "h", "f"]
    audience.run(1.0)
    assert audience.active == ["q"]


def test_a_layer_that_comes_by_itself_has_its_time():
    """Its publisher could not send it before; nobody could take it."""
    audience = Audience("q", "h")
    audience.watch("q")
    audience.unable = {"h"}
    audience.run(20)
    audience.unable = set()
    audience.told.clear()
    audience.run(UNUSED_S)
    assert audience.told == []
    audience.run(1.0)
    assert audience.active == ["q"]


def test_a_layer_that_comes_again_is_awake():
    """The legs choose anew, and the silence is not counted into its rate."""
    published, leg = published_with(q=100), Leg()
    published.fan_out.add(leg)
    made = published.layers["q"]
    made.measure(1.0)
    made.is_asleep = True
    published.layer_awoke(made, 61.0)
    assert (made.is_asleep, made.is_alive(61.0), leg.told) == (False, True, [61.0])
    made.reception.receive(1, 0, 1000, 61.5)
    made.measure(62.0)
    assert made.bitrate_bps == pytest.approx(8000)


def test_a_layer_that_is_stopped_costs_what_it_cost():
    """Its rate falls, what it will take when it is asked for does not; while it is sent that falls slowly."""
    made = layer(track(), "f")
    for second in range(10):
        for at in range(10):
            made.reception.receive(second * 10 + at, 0, 1250, second + at / 10)
        made.last_packet_at = second + 0.9
        made.measure(second + 1.0)
    assert made.nominal_bps == pytest.approx(100_000, rel=0.12)
    before = made.nominal_bps
    for second in range(12, 30):
        made.measure(float(second))
    assert made.bitrate_bps < 1000
    assert made.nominal_bps == before
    made.last_packet_at = 30.0
    made.measure(30.0)
    assert before * 0.9 < made.nominal_bps < before


def test_the_loss_of_a_layer_is_that_since_it_was_asked():
    """In 1/256 for the report, as a fraction beside it."""
    made = layer(track())
    for number in (1, 2, 3, 5, 6, 7, 8):
        made.reception.receive(number, 0, 100, 0.0)
    assert (made.take_fraction_lost(), made.loss) == (32, 0.125)
    made.reception.receive(9, 0, 100, 0.0)
    assert (made.take_fraction_lost(), made.loss) == (0, 0.0)


def test_a_keyframe_tells_the_size_of_the_picture():
    """Where it stands there; else what was known stays."""
    made = layer(track())
    assert (made.width, made.height) == (0, 0)
    made.note_keyframe("vp8", rtp(1, b"\x10\x00\x00\x00\x9d\x01\x2a\x80\x02\x68\x01"), 0.0)
    made.note_keyframe("h264", rtp(2, b"\x65key"), 0.0)
    assert (made.width, made.height) == (640, 360)
