"""The score that people see, 1 to 5; and what is done about a link that loses packets."""

import itertools

import pytest

from sfu.media import rtcp
from sfu.media.bandwidth import QUEUE_LOW_S, START_BPS
from sfu.media.negotiation import PLAYOUT_DELAY_URI
from sfu.media.quality import Quality, score
from tests.unit.media.scene import ALL_EXTENSIONS, OPUS, THEIR_VP8
from tests.unit.media.test_subscriptions import Scene

WITH_DELAY = ALL_EXTENSIONS | {8: PLAYOUT_DELAY_URI}

LOSSES = [step / 100 for step in range(101)]
TRIPS = [step / 40 for step in range(101)]
JITTERS = [step / 100 for step in range(101)]
SOME = (0.0, 0.03, 0.1, 0.4)


def test_a_perfect_link_is_excellent():
    assert score(0.0, 0.0, 0.0) == 5


@pytest.mark.parametrize(
    ("loss", "round_trip_s", "jitter_s", "expected"),
    [
        (0.0, 0.04, 0.005, 5),  # at home
        (0.03, 0.1, 0.01, 5),  # repeats and error correction hide it
        (0.05, 0.1, 0.01, 4),
        (0.1, 0.1, 0.01, 3),
        (0.2, 0.1, 0.01, 2),
        (0.3, 0.1, 0.01, 1),
        (0.0, 0.15, 0.01, 5),  # across a continent
        (0.0, 0.3, 0.01, 4),  # around the world
        (0.0, 0.6, 0.02, 2),  # over a satellite
        (0.0, 1.0, 0.0, 1),
        (0.0, 0.1, 0.05, 4),
        (0.0, 0.1, 0.1, 3),
        (0.0, 0.1, 0.3, 1),
        (0.05, 0.3, 0.03, 3),  # a little of everything
    ],
)
def test_links_that_people_know(loss, round_trip_s, jitter_s, expected):
    assert score(loss, round_trip_s, jitter_s) == expected


@pytest.mark.parametrize("limited", [False, True])
def test_more_of_anything_bad_is_never_better(limited):
    """Loss, round trip and jitter, each beside some of the others."""
    for first, second in itertools.product(SOME, SOME):
        by_loss = [score(loss, first, second, limited=limited) for loss in LOSSES]
        by_trip = [score(first, trip, second, limited=limited) for trip in TRIPS]
        by_jitter = [score(first, second, jitter, limited=limited) for jitter in JITTERS]
        for found in (by_loss, by_trip, by_jitter):
            assert found == sorted(found, reverse=True)
            assert {1} <= set(found) <= {1, 2, 3, 4, 5}


def test_each_of_loss_delay_and_jitter_takes_all_there_is_to_take():
    """From excellent over every step to bad."""
    assert {score(loss, 0.0, 0.0) for loss in LOSSES} == {1, 2, 3, 4, 5}
    assert {score(0.0, trip, 0.0) for trip in TRIPS} == {1, 2, 3, 4, 5}
    assert {score(0.0, 0.0, jitter) for jitter in JITTERS} == {1, 2, 3, 4, 5}


def test_a_round_trip_that_nobody_knows_is_not_held_against_a_link():
    for loss in LOSSES:
        assert score(loss, None, 0.02) == score(loss, 0.0, 0.02)


def test_jitter_weighs_more_than_as_much_delay():
    """The buffer that evens it out holds twice of it, and only half of a round trip is heard."""
    for delay in (0.1, 0.14, 0.2):
        assert score(0.0, 0.0, delay) < score(0.0, 2 * delay, 0.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_picture_smaller_than_asked_for_takes_one(loss):
    """But there is nothing below bad."""
    assert score(loss, 0.05, 0.01, limited=True) == max(1, score(loss, 0.05, 0.01) - 1)


def test_a_limited_picture_is_never_excellent():
    assert score(0.0, None, 0.0, limited=True) == 4


@pytest.mark.parametrize(
    ("loss", "round_trip_s", "jitter_s"),
    [(1.0, 0.0, 0.0), (0.0, 1e6, 0.0), (0.0, 0.0, 1e6), (1.0, 1e6, 1e6), (1.0, None, 0.0)],
)
def test_nothing_is_worse_than_bad(loss, round_trip_s, jitter_s):
    """However absurd the figures are."""
    assert score(loss, round_trip_s, jitter_s) == 1
    assert score(loss, round_trip_s, jitter_s, limited=True) == 1


def test_a_quality_once_told_does_not_change():
    """It is handed about; whoever wants another makes another."""
    quality = Quality(4, 0.01, None, 0.005, 1e6, None)
    with pytest.raises(AttributeError):
        quality.score = 5
    assert quality._replace(score=3).score == 3


# What a receiver tells


def report(ssrc: int, fraction: int = 0, jitter: int = 0) -> rtcp.Report:
    """A report block: so much loss in 1/256, and jitter in media time."""
    return rtcp.Report(ssrc, fraction, 0, 0, jitter, 0, 0)


def test_whoever_receives_nothing_has_no_quality():
    """A slot that waits for its keyframe shows nothing yet."""
    assert Scene().subscriptions.quality() is None


def test_the_quality_of_a_peer_is_that_of_its_worst_stream():
    """But the shortest round trip is that of the link; rates are added up."""
    scene = Scene({"": 400e3}, {"": 600e3})
    for of in scene.layers:
        scene.publish(of)
    for ssrc, fraction, jitter in ((5000, 26, 900), (5010, 3, 1800)):
        scene.subscriptions.receive_report(report(ssrc, fraction, jitter), scene.now)
    one, other = scene.subscriptions.legs.values()
    one.round_trip_s, other.round_trip_s, one.bitrate_bps, other.bitrate_bps = 0.3, 0.1, 380e3, 610e3
    quality = scene.subscriptions.quality()
    assert quality == Quality(score(26 / 256, 0.1, 0.02), 26 / 256, 0.1, 0.02, 990e3, START_BPS)
    one.is_limited = True
    assert scene.subscriptions.quality().score == quality.score - 1


def test_rate_and_round_trip_are_measured_where_no_report_tells_them():
    scene = Scene()
    scene.run(2.1)
    quality = scene.subscriptions.quality()
    assert quality.round_trip_s == scene.subscriptions.bandwidth.round_trip_s < 0.1
    assert quality.bitrate_bps == pytest.approx(500e3, rel=0.1)


def test_without_feedback_there_is_no_estimate_to_tell():
    scene = Scene(extensions={})
    scene.publish()
    quality = scene.subscriptions.quality()
    assert (quality.round_trip_s, quality.estimate_bps) == (None, None)


# Loss


def nack(scene: Scene, *lost: int, ssrc: int = 5000) -> list[tuple[int, int]]:
    """What goes out for a NACK at once: SSRC, and the number that it repeats."""
    scene.subscriptions.receive_nack(rtcp.Nack(1, ssrc, lost), scene.now)
    return repeats(scene)


def repeats(scene: Scene) -> list[tuple[int, int]]:
    return [
        (p.ssrc, int.from_bytes(p.data[p.payload : p.payload + 2], "big")) for p in scene.outlet.take_sent()
    ]


def lossy(fraction: int = 26, **agreed: object) -> Scene:
    """Two packets went out, and a report told of so much loss, in 1/256."""
    scene = Scene(**agreed)
    scene.publish()
    scene.publish()
    scene.subscriptions.receive_report(report(5000, fraction), scene.now)
    return scene


@pytest.mark.parametrize(("fraction", "twice"), [(0, False), (2, False), (3, True), (128, True)])
def test_what_is_lost_comes_again_and_on_a_lossy_link_twice(fraction, twice):
    """The second time at the next tick, because losses come in bursts; and then no more."""
    scene = lossy(fraction)
    assert nack(scene, 1, 2, 77) == [(5001, 1), (5001, 2)]
    assert (scene.due == scene.now) is twice
    scene.tick()
    assert repeats(scene) == ([(5001, 1), (5001, 2)] if twice else [])
    scene.tick()
    assert repeats(scene) == []


def test_a_second_repeat_needs_an_rtx_stream_and_a_link_without_a_queue():
    """It would be a duplicate, or wait behind the first."""
    scene = lossy(codecs=(THEIR_VP8,))
    assert [ssrc for ssrc, _ in nack(scene, 1)] == [5000]
    scene.tick()
    assert repeats(scene) == []
    scene = lossy()
    scene.subscriptions.bandwidth.queue_s = QUEUE_LOW_S + 0.001
    assert nack(scene, 1) == [(5001, 1)]
    scene.tick()
    assert repeats(scene) == []


def test_nothing_is_repeated_into_a_long_queue():
    """It is counted; a shorter one bears it."""
    scene = lossy()
    scene.now += 2.5
    scene.subscriptions.bandwidth.queue_s = 0.201
    assert nack(scene, 1, 2) == []
    assert scene.dropped == {"repeat_into_queue": 2}
    scene.subscriptions.bandwidth.queue_s = 0.199
    assert nack(scene, 1, 2) == [(5001, 1), (5001, 2)]


def test_what_a_layer_began_with_is_repeated_into_a_long_queue():
    """Without it nothing is seen."""
    scene = lossy()
    scene.subscriptions.bandwidth.queue_s = 0.4
    assert nack(scene, 1, 2) == [(5001, 1), (5001, 2)]
    assert scene.dropped == {}


@pytest.mark.parametrize("ssrc", [5001, 4711])
def test_only_the_primary_stream_is_repeated_and_reported(ssrc):
    scene = lossy(0)
    assert nack(scene, 1, ssrc=ssrc) == []
    assert scene.subscriptions.receive_report(report(ssrc, 26), scene.now) is None
    assert scene.leg.loss == 0
    assert scene.subscriptions.receive_report(report(5000, 26), scene.now) is scene.leg


@pytest.mark.parametrize(("trip", "delay"), [(None, 0.3), (0.05, 0.2), (0.1, 0.3), (0.2, 0.5), (3.0, 0.5)])
def test_on_a_lossy_link_the_receiver_is_asked_to_play_later(trip, delay):
    """So that a repeat and the repeat of a repeat are in time; within bounds."""
    scene = lossy(2, extensions=WITH_DELAY)
    assert 8 not in dict(scene.publish()[0].extensions())
    scene.subscriptions.bandwidth.round_trip_s = trip
    scene.subscriptions.receive_report(report(5000, 3), scene.now)
    assert scene.leg.playout_delay_s == pytest.approx(delay)
    asked = round(delay * 100) << 12 | 1000
    assert dict(scene.publish()[0].extensions())[8] == asked.to_bytes(3, "big")


def test_a_delay_that_is_asked_for_changes_only_for_a_much_longer_one():
    """Each change is heard and seen."""
    scene, seen = lossy(0), []
    for trip in (0.05, 0.09, 0.04, 0.15):
        scene.leg.round_trip_s = trip
        scene.subscriptions.receive_report(report(5000, 26), scene.now)
        seen.append(scene.leg.playout_delay_s)
    assert seen == pytest.approx([0.2, 0.2, 0.2, 0.4])


def test_the_delay_is_forgotten_after_a_while_without_loss():
    """Counted from the last loss, not from the first."""
    scene, seen = lossy(), []
    for seconds, fraction in ((14, 0), (1, 26), (14.9, 2), (0.2, 0)):
        scene.now += seconds
        scene.subscriptions.receive_report(report(5000, fraction), scene.now)
        seen.append(scene.leg.playout_delay_s)
    assert seen == pytest.approx([0.3, 0.3, 0.3, 0.0])


def test_voice_is_never_delayed():
    scene = Scene({"": 32e3}, kind="audio", codecs=(OPUS,))
    assert scene.subscriptions.receive_report(report(5000, 128), scene.now) is scene.leg
    assert scene.leg.playout_delay_s is None
