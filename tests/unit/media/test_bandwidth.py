"""The estimate on links of every kind, on virtual time."""

import pytest

from sfu.media.bandwidth import MAX_BPS, MIN_BPS, START_BPS, BandwidthEstimator
from tests.unit.media.link import Link, Source


def follow(estimate: float) -> float:
    """A source that sends what it may, like one with a layer for every rate."""
    return estimate


def test_it_begins_with_a_guess_and_needs_feedback_to_leave_it():
    estimator = BandwidthEstimator()
    assert estimator.estimate_bps == START_BPS
    estimator.receive([], [], [], 1.0)
    assert estimator.estimate_bps == START_BPS
    assert estimator.sent_bps == 0
    assert estimator.arrived_bps is None


@pytest.mark.parametrize("rate", [200_000, 500_000, 1_000_000, 4_000_000])
def test_it_settles_on_what_the_link_takes(rate):
    """A source that follows the estimate uses most of the link, with few losses."""
    link = Link(lambda _: rate)
    source = Source(link)
    source.run(20, follow)
    before = (link.sent, link.gone)
    source.run(20, follow)
    estimates = link.estimates(20)
    assert 0.7 * rate < sum(estimates) / len(estimates) < 1.1 * rate
    assert (link.gone - before[1]) / (link.sent - before[0]) < 0.02


def test_a_step_down_is_followed_within_two_seconds():
    link = Link(lambda now: 2_000_000 if now < 115 else 300_000)
    Source(link).run(15 + 20, follow)
    assert max(link.estimates(17, 35)) < 360_000
    assert min(link.estimates(15, 35)) > 120_000


def test_a_step_up_is_found_by_what_arrives():
    """More sent on purpose is proof; without it the estimate stays near what is sent."""
    link = Link(lambda now: 300_000 if now < 110 else 3_000_000)
    source = Source(link)
    source.run(10, follow)
    source.run(10, lambda estimate: 200_000)
    assert link.estimator.estimate_bps < 500_000
    link.estimator.begin_probe(link.now)
    source.run(0.6, lambda estimate: 1_000_000)
    assert link.estimator.estimate_bps > 850_000


def test_a_probe_into_a_full_link_proves_nothing():
    """A token bucket lets a burst through; the queue behind it says the rest."""
    link = Link(lambda _: 300_000, burst=4_000)
    source = Source(link)
    source.run(10, follow)
    source.run(5, lambda estimate: 200_000)
    link.estimator.begin_probe(link.now)
    source.run(0.5, lambda estimate: 700_000)
    link.estimator.end_probe()
    source.run(0.5, lambda estimate: 200_000)
    assert link.estimator.estimate_bps < 450_000
    assert link.now - link.estimator.congested_at < 1.5


def test_jitter_is_no_queue():
    """30 ms of it on a link with room to spare."""
    link = Link(lambda _: 5_000_000, jitter_s=0.03)
    Source(link).run(30, lambda estimate: 1_000_000)
    assert min(link.estimates(5)) > 900_000


def a_layer(estimate: float) -> float:
    """A source of three layers: the largest that fits, and nothing where none does."""
    return next((bps for bps in (1_500_000, 450_000, 120_000) if bps <= estimate), 0)


@pytest.mark.parametrize("fps", [10, 30])
def test_a_receiver_that_reads_late_is_no_narrow_link(fps):
    """Its machine has no time for it: what waits there is no queue of ours, and less would wait as long."""

    def least(seed: int) -> float:
        link = Link(
            lambda _: 20_000_000,
            delay_s=0.001,
            starved_s=lambda now: 0.15 if 110 < now < 125 else 0.0,
            seed=seed,
        )
        Source(link, fps=fps).run(30, a_layer)
        return min(link.estimates(10))

    # Once it is believed to be full; what was sent less then did not help. At ten pictures a second half a
    # second is five of them: right after the source became smaller, chance may look like a narrow link.
    found = sorted(least(seed) for seed in range(100))
    assert sum(bps < 200_000 for bps in found) <= 6, found[:10]


@pytest.mark.parametrize(("rate", "within_s"), [(100_000, 0.5), (300_000, 1.0), (450_000, 3.5)])
def test_a_link_that_becomes_narrow_is_noticed_though_little_is_sent(rate, within_s):
    """What does not arrive, or waits for long, is the link's, however much it took a moment before."""
    link = Link(lambda now: 5_000_000 if now < 113 else rate)
    source = Source(link)
    source.run(10, lambda estimate: 3_000_000)
    source.run(3, lambda estimate: 500_000)
    assert link.estimator.estimate_bps > 2_000_000
    source.run(within_s, lambda estimate: 500_000)
    assert link.estimator.estimate_bps < rate * 1.1


def test_a_link_that_was_left_alone_is_learned_anew():
    """After a silence no queue is ours: the delay of the first packets is the link's own by now."""
    link = Link(lambda _: 5_000_000)
    source = Source(link)
    source.run(10, lambda estimate: 500_000)
    link.delay_s = 0.15
    source.run(4, lambda estimate: 0)
    link.estimator.begin_again(500_000)
    source.run(3, lambda estimate: 450_000)
    assert link.estimator.queue_s < 0.012
    assert link.estimator.estimate_bps >= 500_000


def test_random_loss_is_no_congestion():
    """5 % of it: the estimate holds; 20 % is more than anybody should add to."""
    link = Link(lambda _: 5_000_000, loss=0.05)
    Source(link).run(30, lambda estimate: 1_000_000)
    assert min(link.estimates(5)) > 900_000
    link = Link(lambda _: 5_000_000, loss=0.2)
    Source(link).run(10, follow)
    assert link.estimator.estimate_bps < 500_000


def test_a_competing_flow_is_yielded_to_and_outlived():
    """Half of the link goes to somebody else for ten seconds."""
    link = Link(lambda now: 2_000_000 if not 110 < now < 120 else 1_000_000)
    Source(link).run(40, follow)
    assert sum(link.estimates(12, 20)) / len(link.estimates(12, 20)) < 1_050_000
    assert link.estimator.estimate_bps > 1_300_000


def test_a_standing_queue_of_somebody_else_is_taken_for_the_road():
    """Delay that stays, whatever we do, is not ours: it is counted in after ten seconds."""
    link = Link(lambda _: 5_000_000)
    source = Source(link)
    source.run(10, lambda estimate: 500_000)
    link.delay_s = 0.15
    source.run(10.5, lambda estimate: min(estimate, 500_000))
    link.estimator.congested_at = 0.0
    source.run(10, lambda estimate: 500_000)
    assert link.estimator.queue_s < 0.012
    assert link.estimator.congested_at == 0.0


def test_lost_feedback_and_a_skewed_clock_change_little():
    link = Link(lambda _: 1_000_000, lost_feedback=0.3, clock_skew=2e-4)
    Source(link).run(40, follow)
    estimates = link.estimates(20)
    assert 600_000 < sum(estimates) / len(estimates) < 1_150_000


def test_it_stays_within_bounds():
    """Whatever a receiver claims."""
    estimator = BandwidthEstimator()
    for step in range(200):
        now = step * 0.05
        estimator.receive([now] * 50, [1_900] * 50, [0.0] * 50, now)
    assert MIN_BPS <= estimator.estimate_bps <= MAX_BPS
    for step in range(200):
        now = 10 + step * 0.05
        estimator.receive([now] * 50, [1_900] * 50, [None] * 50, now)
    assert estimator.estimate_bps >= MIN_BPS


def test_what_it_keeps_is_bounded():
    """A receiver whose clock stands still fills nothing."""
    estimator = BandwidthEstimator()
    for step in range(5_000):
        estimator.receive([step * 0.01], [100], [5.0], step * 0.01)
    assert len(estimator._delays) < 300
    assert len(estimator._arrival_rate._entries) < 600
