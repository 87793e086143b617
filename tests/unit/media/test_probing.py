"""When more is sent than needed, how much of it, and what a receiver gets of what its link takes."""

from dataclasses import replace

import pytest

from sfu.media import rtcp
from sfu.media.bandwidth import QUEUE_LOW_S, START_BPS
from sfu.media.probing import MAX_INTERVAL_S, MIN_INTERVAL_S, PROBE_S, SETTLE_S, Prober
from tests.unit.media.scene import THEIR_VP8, layer
from tests.unit.media.test_subscriptions import CAMERA, Scene, body, number_of

# What is aimed at beyond what is wanted, and the most that is aimed at beyond the estimate.
ABOVE, STEP = 1.15, 3.0


def probing(wanted: float = 1_000_000, estimate: float = 500_000, now: float = 10.0) -> Prober:
    """A probe that has just begun."""
    prober = Prober()
    assert prober.begin(wanted, estimate, now)
    return prober


def fail(prober: Prober, now: float) -> None:
    """Let a running probe end with a link that is full."""
    assert prober.judge(100_000, is_clear=False, now=now)


def waits(prober: Prober, since: float) -> float:
    """How long after a time the next probe may begin, to a hundredth."""
    return next(step / 100 for step in range(1000) if prober.begin(1e6, 5e5, since + step / 100))


# When it begins


def test_there_is_no_probe_before_one_begins():
    """Nothing to send, and nothing to judge."""
    prober = Prober()
    assert not prober.is_running
    assert prober.padding(0.0, 10.0) == 0
    assert not prober.judge(1e9, is_clear=True, now=10.0)


@pytest.mark.parametrize(("wanted", "begins"), [(0, False), (500_000, False), (500_001, True)])
def test_a_probe_begins_only_when_more_is_wanted_than_estimated(wanted, begins):
    prober = Prober()
    assert prober.begin(wanted, 500_000, 10.0) is begins
    assert prober.is_running is begins


def test_a_probe_that_runs_is_not_begun_again():
    """Its target and its end stay."""
    prober = probing()
    assert not prober.begin(1_400_000, 500_000, 10.1)
    assert prober.target_bps == pytest.approx(1_000_000 * ABOVE)
    assert prober.padding(0.0, 10.0 + PROBE_S + 0.01) == 0


def test_a_probe_aims_a_little_above_what_is_wanted():
    """So that an estimate a little below what arrives suffices."""
    assert probing(1_000_000, 500_000).target_bps == pytest.approx(1_000_000 * ABOVE)


def test_what_is_far_away_is_reached_in_steps():
    """Nobody sends ten times of what was proven."""
    assert probing(5_000_000, 500_000).target_bps == pytest.approx(500_000 * STEP * ABOVE)


# What it sends


@pytest.mark.parametrize("tick", [0.005, 0.02, 0.033])
@pytest.mark.parametrize("sent", [0.0, 150_000.0, 700_000.0])
def test_padding_fills_up_to_the_target_for_half_a_second(tick, sent):
    """Rate times time, whatever the ticks are; a tick may be cut off at the end."""
    prober, total, now = probing(), 0, 10.0
    while now < 12.0:
        now += tick
        total += prober.padding(sent, now)
    rate = (1_000_000 * ABOVE - sent) / 8
    assert rate * (PROBE_S - tick) - PROBE_S / tick <= total <= rate * PROBE_S


def test_padding_is_even():
    """Each tick sends its share: no bursts, which would be a queue of their own."""
    prober = probing()
    shares = [prober.padding(150_000.0, 10.0 + step * 0.02) for step in range(1, 26)]
    assert set(shares) <= {2499, 2500}


def test_what_is_sent_anyway_is_not_sent_in_addition():
    """Above the target nothing is added."""
    prober = probing()
    assert prober.padding(1_000_000 * ABOVE + 1, 10.02) == 0
    assert prober.padding(2_000_000, 10.04) == 0
    assert prober.padding(150_000, 10.06) > 0


def test_the_time_at_which_nothing_was_missing_is_not_made_up_for():
    """A tick is for the time since the last one, whatever that one sent."""
    prober = probing()
    assert prober.padding(2_000_000, 10.3) == 0
    assert prober.padding(150_000, 10.32) == pytest.approx(2_500, abs=1)


def test_a_late_tick_is_no_burst():
    """A loop that stood still for long sends what a tenth of a second takes."""
    prober = probing()
    assert prober.padding(150_000, 10.4) == pytest.approx(1_000_000 / 8 * 0.1, abs=1)


def test_nothing_is_sent_while_its_feedback_is_under_way():
    """After half a second it runs on without padding."""
    prober = probing()
    assert prober.padding(0.0, 10.0 + PROBE_S + 0.001) == 0
    assert prober.is_running


# How it ends


@pytest.mark.parametrize(("estimate", "ends"), [(999_999, False), (1_000_001, True), (5_000_000, True)])
def test_a_probe_ends_when_the_estimate_reaches_what_is_wanted(estimate, ends):
    """At once, and not before."""
    prober = probing()
    assert prober.judge(estimate, is_clear=True, now=10.1) is ends
    assert prober.is_running is not ends
    assert (prober.target_bps == 0) is ends


def test_a_probe_that_finds_the_link_full_ends_at_once():
    """So that the queue it made is short."""
    prober = probing()
    assert prober.judge(600_000, is_clear=False, now=10.05)
    assert not prober.is_running
    assert prober.padding(0.0, 10.06) == 0


def test_a_probe_without_an_answer_ends_when_its_feedback_is_overdue():
    prober = probing()
    assert not prober.judge(600_000, is_clear=True, now=10.0 + PROBE_S + SETTLE_S - 0.01)
    assert prober.judge(600_000, is_clear=True, now=10.0 + PROBE_S + SETTLE_S)
    assert not prober.is_running


def test_an_end_is_told_once():
    prober = probing()
    assert prober.judge(1_000_001, is_clear=True, now=10.3)
    assert not prober.judge(1_000_001, is_clear=True, now=10.3)


# How long one waits


def test_after_a_success_the_next_step_follows_soon():
    """Half of the interval is enough for the layer to be there."""
    prober = probing()
    assert prober.judge(1_000_001, is_clear=True, now=10.3)
    assert waits(prober, 10.3) == pytest.approx(MIN_INTERVAL_S / 2, abs=0.011)


def test_each_failure_doubles_the_wait_up_to_a_limit():
    """A link that is as it is, is not asked each second."""
    prober, now, seen = probing(), 10.0, []
    for _ in range(5):
        fail(prober, now)
        seen.append(waits(prober, now))
        now += seen[-1]
    assert seen == pytest.approx([2 * MIN_INTERVAL_S, 4 * MIN_INTERVAL_S] + 3 * [MAX_INTERVAL_S], abs=0.011)


def test_a_probe_that_proves_nothing_counts_as_a_failure():
    """Whether the link was full or only nothing came back."""
    prober = probing()
    assert prober.judge(600_000, is_clear=True, now=11.0)
    assert waits(prober, 11.0) == pytest.approx(2 * MIN_INTERVAL_S, abs=0.011)


def test_a_success_makes_the_failures_forgotten():
    """The next failure waits as long as the first did."""
    prober, now = probing(), 10.0
    for _ in range(3):
        fail(prober, now)
        now += waits(prober, now)
    assert prober.judge(1_000_001, is_clear=True, now=now)
    now += waits(prober, now)
    fail(prober, now)
    assert waits(prober, now) == pytest.approx(2 * MIN_INTERVAL_S, abs=0.011)


def test_what_is_reached_on_a_full_link_is_reached():
    """The estimate came as far as it was to come, whatever waits now."""
    prober = probing()
    assert prober.judge(1_000_001, is_clear=False, now=10.3)
    assert waits(prober, 10.3) == pytest.approx(MIN_INTERVAL_S / 2, abs=0.011)


def test_a_link_that_was_full_puts_the_next_probe_off():
    """By the interval, from each time it was found full."""
    prober = Prober()
    prober.put_off(10.0)
    prober.put_off(10.5)
    assert waits(prober, 10.5) == pytest.approx(MIN_INTERVAL_S, abs=0.011)


def test_putting_off_never_brings_a_probe_nearer():
    """After failures the wait is as long as they made it."""
    prober = probing()
    fail(prober, 10.0)
    fail_at = 10.0 + waits(prober, 10.0)
    fail(prober, fail_at)
    prober.put_off(fail_at - 2.0)
    assert waits(prober, fail_at) == pytest.approx(4 * MIN_INTERVAL_S, abs=0.011)
    fail(prober, 20.0)
    prober.put_off(21.0)
    assert waits(prober, 21.0) == pytest.approx(MAX_INTERVAL_S, abs=0.011)


def test_putting_off_does_not_end_the_probe_that_runs():
    """It is judged by what it finds."""
    prober = probing()
    prober.put_off(10.1)
    assert prober.is_running
    assert prober.padding(0.0, 10.12) > 0


# On a link


def test_a_probe_finds_room_for_a_better_layer():
    """By repeats on the rtx stream, which only tell what the link takes."""
    scene = Scene({"q": 150e3, "f": 2.5e6})
    scene.run(1)
    assert scene.leg.layer.rid == "q"
    padded = [packet for packet in scene.sent if packet.ssrc == 5001]
    assert scene.outlet.counters.packets_padded == len(padded) > 0
    scene.run(5)
    assert scene.leg.layer.rid == "f"
    before = scene.outlet.counters.packets_padded
    scene.run(5)
    assert scene.outlet.counters.packets_padded == before  # there is nothing better


def test_a_probe_adds_what_is_missing():
    """As long as it runs the difference between what is wanted and what is sent, on all legs together."""
    scene = Scene({"q": 450e3}, {"q": 450e3})
    scene.run(3)
    better = layer(scene.leg.track, "f", 9, scene.now)
    better.bitrate_bps = better.nominal_bps = 2e6
    scene.sent.clear()
    scene.run(0.4)
    padded = sum(len(packet.data) for packet in scene.sent if packet.ssrc in (5001, 5011))
    target = (2e6 + 450e3) * 1.1 * ABOVE
    assert padded == pytest.approx((target - 900e3) / 8 * 0.35, rel=0.2)


def test_a_small_probe_is_small():
    """Packets are whole: one that is more than was due lets the next ticks be silent."""
    scene = Scene({"q": 60e3})
    scene.run(3)
    scene.subscriptions.bandwidth.begin_again(80e3)
    better = layer(scene.leg.track, "h", 9, scene.now)
    better.bitrate_bps = better.nominal_bps = 100e3
    scene.subscriptions.allocate(scene.now)
    scene.sent.clear()
    scene.run(1)
    padded = sum(len(packet.data) for packet in scene.sent if packet.ssrc == 5001)
    assert 0 < padded * 8 <= (100e3 * 1.1 * ABOVE - 60e3) * 0.5 + 8000


def test_a_link_that_was_full_a_moment_ago_is_not_asked():
    """It is given two seconds, and then the interval."""
    scene = Scene({"q": 150e3, "f": 3e6})
    scene.subscriptions.bandwidth.congested_at = 100.0
    for seconds, begins in ((1.9, False), (2.1, False), (3.2, True)):
        scene.now = 100.0 + seconds
        scene.hear(body({number_of(scene.publish()[0]): scene.now}))
        assert (scene.due < float("inf")) is begins


def test_probes_do_not_fill_a_narrow_link():
    """What is shown stays, and little is lost."""
    scene = Scene({"q": 150e3, "f": 1.5e6})
    scene.rate = 400e3
    scene.run(10)
    assert scene.leg.layer.rid == "q"
    assert scene.subscriptions.bandwidth.queue_s < 0.03
    assert 0 < scene.outlet.counters.packets_padded < 400


def test_a_link_that_becomes_narrow_gets_less():
    scene = Scene({"q": 150e3, "f": 800e3})
    scene.run(2)
    assert (scene.leg.layer.rid, scene.leg.is_limited) == ("f", False)
    scene.rate = 300e3
    scene.run(4)
    assert (scene.leg.layer.rid, scene.leg.is_limited) == ("q", True)
    assert scene.subscriptions.limit_bps < 350e3


def test_a_link_for_one_picture_shows_one():
    """The second is paused once the link was found full, not before."""
    scene = Scene({"": 300e3}, {"": 300e3})
    scene.subscriptions.bandwidth.estimate_bps = 350e3
    scene.subscriptions.allocate(scene.now)
    assert scene.allotted == ["", ""]
    scene.rate = 350e3
    scene.run(4)
    assert scene.allotted == ["", None]
    assert [leg.is_paused for leg in scene.subscriptions.legs.values()] == [False, True]


@pytest.mark.parametrize(("queue_s", "shown"), [(0.0, "f"), (0.05, None)])
def test_what_a_full_link_does_not_take_stops_at_once(queue_s, shown):
    """The keyframe of the lower layer would wait behind it; without a queue it is waited for."""
    scene = Scene({"q": 150e3, "f": 800e3})
    scene.publish(scene.layers[1])
    bandwidth = scene.subscriptions.bandwidth
    bandwidth.estimate_bps, bandwidth.queue_s = 300e3, queue_s
    scene.subscriptions.allocate(scene.now)
    assert (scene.leg.layer.rid if scene.leg.layer else None) == shown
    scene.subscriptions.allocate(scene.now + 0.8 * queue_s)
    assert scene.leg.target.rid == "q"


@pytest.mark.parametrize(("queue_s", "room_after_s"), [(0.1, 0.08), (0.4, 0.3), (2.0, 0.3)])
def test_the_next_layer_begins_when_a_full_link_has_room(queue_s, room_after_s):
    """Its keyframe would be lost before, and comes no earlier; who is woken meanwhile does not forget."""
    scene = Scene({"q": 150e3, "f": 800e3})
    scene.publish(scene.layers[1])
    bandwidth = scene.subscriptions.bandwidth
    bandwidth.estimate_bps, bandwidth.queue_s = 300e3, queue_s
    began = scene.now
    scene.subscriptions.allocate(began)
    for at in (began, began + room_after_s / 2, began + room_after_s - 0.001):
        scene.due = float("inf")
        scene.subscriptions.handle_timer(at)
        assert (scene.leg.layer, scene.leg.target, scene.leg.is_paused) == (None, None, True)
        assert scene.due == pytest.approx(began + room_after_s)
    scene.subscriptions.handle_timer(began + room_after_s + 1e-6)
    assert scene.leg.target.rid == "q"


def test_what_is_shown_stays_while_the_estimate_takes_it():
    """To come to it would take more."""
    scene = Scene({"q": 150e3, "f": 800e3})
    scene.publish(scene.layers[1])
    scene.subscriptions.bandwidth.estimate_bps = 810e3
    scene.subscriptions.allocate(scene.now)
    assert scene.allotted == ["f"]


@pytest.mark.parametrize("agreed", [{"extensions": {}}, {"codecs": (replace(THEIR_VP8, feedback=()),)}])
def test_remb_counts_where_there_is_no_other_feedback(agreed):
    """It chooses layers, but pauses none."""
    scene = Scene(CAMERA, **agreed)
    assert (scene.allotted, scene.subscriptions.limit_bps) == (["f"], float("inf"))
    for bps, expected in ((600_000, "h"), (10_000, "q")):
        scene.subscriptions.receive_remb(rtcp.Remb(1, bps, (5000,)))
        assert (scene.due, scene.subscriptions.limit_bps) == (0.0, bps)
        scene.tick()
        assert scene.allotted == [expected]


def test_remb_does_not_count_beside_feedback():
    scene = Scene(CAMERA)
    scene.subscriptions.receive_remb(rtcp.Remb(1, 10_000, (5000,)))
    assert (scene.due, scene.subscriptions.limit_bps) == (float("inf"), START_BPS)


# Whether feedback of it is looked at


def calm() -> Scene:
    """A receiver that gets all it could be shown, over a link on which nothing waits."""
    scene = Scene()
    scene.run(1)
    scene.hear(body({number_of(scene.sent[-1]): scene.now}))
    return scene


def test_on_a_calm_link_every_few_feedbacks_are_enough():
    scene = calm()
    assert not scene.subscriptions.needs_feedback(scene.now + 0.29)
    assert scene.subscriptions.needs_feedback(scene.now + 0.31)


@pytest.mark.parametrize(
    ("sign", "value", "needs"),
    [
        ("queue_s", QUEUE_LOW_S + 0.001, True),
        ("queue_s", QUEUE_LOW_S - 0.001, False),
        ("loss", 0.01, True),
        ("congested_at", -19.0, True),
        ("congested_at", -21.0, False),
    ],
)
def test_a_link_of_which_something_bad_was_heard_is_watched(sign, value, needs):
    """Also for a while after it was full."""
    scene = calm()
    setattr(scene.subscriptions.bandwidth, sign, value + (scene.now if sign == "congested_at" else 0))
    assert scene.subscriptions.needs_feedback(scene.now) is needs


def test_whoever_wants_more_is_watched():
    """Between two probes as well."""
    scene = Scene({"q": 150e3, "f": 3e6})
    scene.publish()
    scene.hear(body({1: 7.0}))
    scene.now += 1.0
    scene.tick()
    scene.hear(body({2: 8.0}))
    assert scene.due == float("inf")
    assert scene.subscriptions.needs_feedback(scene.now)


def test_a_probe_that_runs_is_watched():
    """Also when what it was for has gone meanwhile."""
    scene = Scene({"q": 150e3, "f": 3e6})
    scene.publish()
    scene.hear(body({1: 7.0}))
    scene.leg.detach()
    scene.subscriptions.prefer("0", None)
    scene.subscriptions.settle(scene.now)
    assert scene.subscriptions.needs_feedback(scene.now)
    scene.now += 1.0
    scene.tick()
    scene.hear(body({2: 8.0}))
    assert not scene.subscriptions.needs_feedback(scene.now)
