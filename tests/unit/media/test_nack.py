"""Every missing packet is asked for, none that arrived, and not for ever."""

import pytest
from hypothesis import given, strategies as st

from sfu.media.nack import MAX_MISSING, MAX_RETRY_S, MAX_TRIES, MIN_RETRY_S, NackGenerator


@given(
    first=st.integers(0, 0xFFFF),
    arrives=st.lists(st.booleans(), min_size=1, max_size=200),
    swaps=st.lists(st.integers(0, 198), max_size=20),
)
def test_exactly_what_is_missing_is_asked_for(first, arrives, swaps):
    """Under loss and reordering, over the wrap: at every moment the gaps below the highest."""
    steps = [0, *(step + 1 for step, here in enumerate(arrives) if here)]
    for at in swaps:
        if 0 < at < len(steps) - 1:
            steps[at], steps[at + 1] = steps[at + 1], steps[at]
    generator, asked, seen = NackGenerator(), set(), set()
    for step in steps:
        lost = generator.receive((first + step) & 0xFFFF, 0.0)
        missing_before = set(range(max(seen, default=step) + 1, step)) if seen else set()
        assert lost == [(first + number) & 0xFFFF for number in sorted(missing_before)]
        asked |= missing_before
        seen.add(step)
    assert asked >= set(range(max(seen))) - seen
    missing = sorted(set(range(max(seen))) - seen)
    assert len(generator) == len(missing)
    assert sorted(generator.handle_timer(10.0)) == sorted((first + number) & 0xFFFF for number in missing)


def test_nothing_is_asked_for_before_a_gap():
    """A stream in order, duplicates included, is silent."""
    generator = NackGenerator()
    for sequence in (65534, 65535, 65535, 0, 1, 0):
        assert generator.receive(sequence, 0.0) == []
    assert generator.next_timer() is None
    assert generator.handle_timer(1.0) == []


def test_what_comes_late_is_not_asked_for_again():
    """The one that came is forgotten, the other is repeated."""
    generator = NackGenerator()
    generator.receive(1, 0.0)
    assert generator.receive(4, 0.0) == [2, 3]
    generator.receive(3, 0.01)
    assert generator.handle_timer(1.0) == [2]


@pytest.mark.parametrize(("round_trip", "retry"), [(0.1, 0.12), (0.001, MIN_RETRY_S), (3.0, MAX_RETRY_S)])
def test_it_asks_again_after_a_round_trip(round_trip, retry):
    """A little later than an answer could have come, within bounds."""
    generator = NackGenerator()
    generator.round_trip_s = round_trip
    generator.receive(1, 5.0)
    generator.receive(3, 5.0)
    assert generator.next_timer() == pytest.approx(5.0 + retry)
    assert generator.handle_timer(5.0 + retry * 0.9) == []
    assert generator.handle_timer(5.0 + retry * 1.1) == [2]
    assert generator.next_timer() == pytest.approx(5.0 + retry * 2.1)


def test_it_gives_up_after_so_many_tries():
    """The number is forgotten and a keyframe is due."""
    generator = NackGenerator()
    generator.receive(1, 0.0)
    asked = len(generator.receive(3, 0.0))
    now = 0.0
    while generator.next_timer() is not None:
        now = generator.next_timer()
        asked += len(generator.handle_timer(now))
    assert asked == MAX_TRIES
    assert generator.gave_up
    assert len(generator) == 0


def test_an_outage_is_not_asked_for():
    """More than the bound at once: everything is given up, and the stream goes on behind it."""
    generator = NackGenerator()
    generator.receive(0, 0.0)
    generator.receive(2, 0.0)
    assert generator.receive(2 + MAX_MISSING + 1, 0.0) == []
    assert generator.gave_up
    assert len(generator) == 0
    assert generator.receive(2 + MAX_MISSING + 3, 0.0) == [2 + MAX_MISSING + 2]


def test_as_many_as_the_bound_are_asked_for():
    """The bound is inclusive."""
    generator = NackGenerator()
    generator.receive(0, 0.0)
    assert len(generator.receive(MAX_MISSING + 1, 0.0)) == MAX_MISSING
    assert not generator.gave_up
