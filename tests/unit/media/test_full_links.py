"""What a link carried while it was full is remembered: neither drained too far nor asked for too much."""

from collections.abc import Iterator

import pytest

from sfu.media.bandwidth import BandwidthEstimator
from sfu.media.probing import Prober


class _Link:
    """A queue before a link of so many bits a second; feedback every 50 ms."""

    def __init__(self, bps: float) -> None:
        self.bps, self.now, self.free_at = bps, 0.0, 0.0
        self.estimator = BandwidthEstimator(start_bps=bps)

    def send(self, bps: float, seconds: float) -> Iterator[float]:
        """Send at a steady rate; yields the estimate after each feedback."""
        size = 1000
        for _ in range(round(seconds / 0.05)):
            sent, arrived = [], []
            count = max(1, round(bps * 0.05 / 8 / size))
            for index in range(count):
                at = self.now + index * 0.05 / count
                self.free_at = max(self.free_at, at) + size * 8 / self.bps
                sent.append(at)
                arrived.append(self.free_at)
            self.now += 0.05
            self.estimator.receive(sent, [size] * count, list(arrived), self.now)
            yield self.estimator.estimate_bps


@pytest.mark.parametrize("before_s", [2.0, 3.0, 4.0, 5.0])
def test_draining_a_queue_stops_at_what_flowed_before(before_s):
    """What flowed without a queue fits, however long the queue of a probe takes to drain."""
    link = _Link(900_000)
    for _ in link.send(800_000, before_s):
        pass
    for _ in link.send(1_800_000, 0.35):
        pass
    drained = list(link.send(800_000, 2))
    assert min(drained) >= 780_000


def test_estimate_does_not_grow_beyond_what_a_full_link_carried():
    link = _Link(1_000_000)
    for _ in link.send(1_800_000, 0.5):
        pass
    grown = list(link.send(800_000, 10))
    assert link.estimator.queue_s == pytest.approx(0, abs=0.001)
    assert 0.85e6 < max(grown[100:]) <= 1.02e6


def test_estimate_grows_again_when_the_full_link_is_long_ago():
    link = _Link(1_000_000)
    for _ in link.send(1_800_000, 0.5):
        pass
    assert max(link.send(800_000, 19)) <= 1.02e6
    assert list(link.send(800_000, 8))[-1] > 1.15e6


def test_proof_counts_even_on_a_link_that_was_full():
    link = _Link(1_000_000)
    for _ in link.send(1_800_000, 0.5):
        pass
    for _ in link.send(500_000, 3):
        pass
    link.bps = 10_000_000
    assert list(link.send(3_000_000, 1))[-1] >= 2_700_000


def test_probes_begin_small_after_the_link_was_full_and_double_with_success():
    prober = Prober()
    assert prober.begin(10_000_000, 1_000_000, 0.0)
    assert prober.target_bps == pytest.approx(3.45e6)
    assert prober.judge(1_000_000, is_clear=False, now=0.2)
    factors, now = [], 10.0
    for _ in range(3):
        assert prober.begin(10_000_000, 1_000_000, now)
        factors.append(prober.target_bps / 1_000_000)
        assert prober.judge(prober.target_bps, is_clear=True, now=now + 0.5)
        now += 10.0
    assert factors == pytest.approx([1.265, 2.53, 3.45])


def test_probes_begin_small_after_somebody_else_filled_the_link():
    prober = Prober()
    prober.put_off(0.0)
    assert prober.begin(10_000_000, 1_000_000, 10.0)
    assert prober.target_bps == pytest.approx(1.265e6)
