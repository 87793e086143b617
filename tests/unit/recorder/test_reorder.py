"""Packets come out in order, each once, and tell how many before them are missing."""

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from sfu.recorder.reorder import MAX_JUMP, MAX_WAITING, WAIT_S, Reorder


def pushed(reorder: Reorder[int], *numbers: int, now: float = 0.0) -> list[tuple[int, int]]:
    """Push packets that are their own extended numbers."""
    return [found for number in numbers for found in reorder.push(number & 0xFFFF, number, now)]


def test_packets_in_order_come_out_at_once():
    """Nothing waits, whatever number the first has."""
    assert pushed(Reorder(), 7, 8, 9) == [(7, 0), (8, 0), (9, 0)]


def test_a_packet_that_is_late_comes_out_at_its_place():
    """Those behind it wait for it."""
    reorder = Reorder()
    assert pushed(reorder, 1, 3, 4) == [(1, 0)]
    assert pushed(reorder, 2) == [(2, 0), (3, 0), (4, 0)]


def test_repeats_come_out_once():
    """Of what waits, and of what was given out."""
    reorder = Reorder()
    assert pushed(reorder, 1, 1, 3, 3) == [(1, 0)]
    assert pushed(reorder, 2, 2, 3, 1) == [(2, 0), (3, 0)]


def test_what_came_before_the_first_is_not_waited_for_nor_given_out():
    """The first packet that is seen is the beginning."""
    reorder = Reorder()
    assert pushed(reorder, 5, 4, 6) == [(5, 0), (6, 0)]


def test_a_gap_is_given_up_when_its_time_is_over():
    """Not before; and a packet of it that comes later is dropped."""
    reorder = Reorder()
    assert pushed(reorder, 1, 4, 5, now=10) == [(1, 0)]
    assert reorder.take(10 + WAIT_S - 0.01) == []
    assert reorder.take(10.001 + WAIT_S) == [(4, 2), (5, 0)]
    assert pushed(reorder, 2, 3, 6, now=12) == [(6, 0)]


def test_a_gap_is_given_up_by_the_packets_that_come_later():
    """Nobody needs to call take()."""
    reorder = Reorder(wait_s=0.5)
    assert pushed(reorder, 1, 3) == [(1, 0)]
    assert pushed(reorder, 4, now=0.25) == []
    assert pushed(reorder, 5, now=0.5) == [(3, 1), (4, 0), (5, 0)]


def test_each_gap_waits_for_its_own_time():
    """That the first is given up says nothing of the second."""
    reorder = Reorder()
    assert pushed(reorder, 1, 3) == [(1, 0)]
    assert pushed(reorder, 6, now=0.5) == []
    assert reorder.take(WAIT_S) == [(3, 1)]
    assert reorder.take(WAIT_S + 0.5) == [(6, 2)]


def test_a_packet_never_waits_longer_than_its_time():
    """What came late before it does not begin the waiting anew, though something before that is missing."""
    reorder = Reorder()
    assert pushed(reorder, 1, 9) == [(1, 0)]
    assert pushed(reorder, 3, now=0.75 * WAIT_S) == []
    assert pushed(reorder, 6, now=0.9 * WAIT_S) == []
    assert reorder.take(WAIT_S) == [(3, 1), (6, 2), (9, 2)]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30)), min_size=1, max_size=40))
def test_whoever_looks_finds_what_has_waited_for_its_time(arrivals):
    """Whatever the order in which packets come."""
    reorder: Reorder[float] = Reorder()
    now, looked = 0.0, 0.0
    reorder.push(0, now, now)
    for number, ticks in arrivals:
        now += ticks / 64  # sums are exact
        for came, _ in [*reorder.push(number, now, now), *reorder.take(now)]:
            assert looked - came < WAIT_S
        looked = now
    assert all(now - came < WAIT_S for came, _ in reorder.flush())


def test_nothing_waits_when_nothing_came():
    """take() and flush() of an empty one."""
    reorder: Reorder[int] = Reorder()
    assert reorder.take(100) == reorder.flush() == []


def test_all_that_waits_is_flushed():
    """In order; and a gap is not waited for any more."""
    reorder = Reorder()
    assert pushed(reorder, 1, 6, 3) == [(1, 0)]
    assert reorder.flush() == [(3, 1), (6, 2)]
    assert reorder.flush() == []
    assert pushed(reorder, 4, 7) == [(7, 0)]


def test_no_more_wait_than_may():
    """One more gives up the gap, however young it is."""
    reorder = Reorder()
    assert pushed(reorder, 0, *range(2, MAX_WAITING + 2)) == [(0, 0)]
    found = pushed(reorder, MAX_WAITING + 2)
    assert found[0] == (2, 1)
    assert [number for number, _ in found] == list(range(2, MAX_WAITING + 3))
    assert not any(missing for _, missing in found[1:])


def test_numbers_go_on_beyond_sixteen_bits():
    """More than twice around."""
    reorder = Reorder()
    for number in range(65_500, 65_500 + 140_000):
        assert reorder.push(number & 0xFFFF, number, 0.0) == [(number, 0)]


@pytest.mark.parametrize("first", [0, 1000, 65_535, 65_000])
@pytest.mark.parametrize("jump", [MAX_JUMP, MAX_JUMP - 1, 2])
def test_a_gap_is_waited_for_when_it_is_short_enough(first, jump):
    """Also across the end of the numbers."""
    reorder = Reorder()
    assert pushed(reorder, first, first + jump) == [(first, 0)]
    assert reorder.flush() == [(first + jump, jump - 1)]


@pytest.mark.parametrize("first", [0, 1000, 65_535])
@pytest.mark.parametrize("jump", [MAX_JUMP + 2, -MAX_JUMP - 2, 20_000, -20_000, 32_768])
def test_a_source_that_began_anew_is_not_waited_for(first, jump):
    """What waited comes out first; the packet that jumped says that something is missing."""
    reorder = Reorder()
    assert pushed(reorder, first, first + 2) == [(first, 0)]
    new = first + jump
    assert pushed(reorder, new) == [(first + 2, 1), (new, 1)]
    assert pushed(reorder, new + 2, new, new + 1) == [(new + 1, 0), (new + 2, 0)]


@st.composite
def journeys(draw):
    """Numbers from anywhere; some are lost, some come twice, some late: (sent, arrival, lost)."""
    first = draw(st.integers(0, 0xFFFF))
    count = draw(st.integers(1, 120))
    lost = draw(st.sets(st.integers(1, count), max_size=count // 2))
    kept = [index for index in range(1, count) if index not in lost]
    repeated = draw(st.lists(st.sampled_from(kept), max_size=10)) if kept else []
    rest = draw(st.permutations(kept + repeated))
    return [first + index for index in [0, *kept]], [first, *(first + index for index in rest)]


@given(journeys())
def test_whatever_happens_on_the_way_packets_come_out_in_order_and_once(journey):
    """And what is missing is counted where it is missing."""
    sent, arrived = journey
    reorder = Reorder()
    found = [*pushed(reorder, *arrived), *reorder.flush()]
    assert [number for number, _ in found] == sent
    gaps = [later - earlier - 1 for earlier, later in pairwise(sent)]
    assert [missing for _, missing in found] == [0, *gaps]


@given(journeys(), st.lists(st.integers(0, 25), min_size=130, max_size=130), st.sampled_from((0.125, 1.0)))
def test_nothing_comes_twice_or_out_of_order_when_gaps_are_given_up(journey, pauses, wait_s):
    """Every packet that is not given out, nor waits, belongs to what was counted as missing."""
    _, arrived = journey
    reorder: Reorder[int] = Reorder(wait_s)
    found, now = [], 0.0
    for number, pause in zip(arrived, pauses, strict=False):
        now += pause / 64  # sums are exact
        found += reorder.push(number & 0xFFFF, number, now)
    found += reorder.take(now + wait_s)
    assert reorder.flush() == []  # all waited for long enough
    at = arrived[0]
    for number, missing in found:
        assert missing >= 0
        assert number == at + missing
        at = number + 1
    assert at == max(arrived) + 1


@given(
    st.lists(st.tuples(st.integers(0, 0xFFFF), st.floats(0, 2)), max_size=60),
    st.integers(0, 0xFFFF),
)
def test_any_numbers_come_out_at_most_as_often_as_they_came(steps, first):
    """No order of numbers is an error, nothing is made up, and nothing is kept for ever."""
    reorder: Reorder[int] = Reorder()
    found, now = reorder.push(first, -1, 0.0), 0.0
    for index, (number, pause) in enumerate(steps):
        now += pause
        found += reorder.push(number, index, now)
    found += reorder.flush()
    packets = [packet for packet, _ in found]
    assert len(set(packets)) == len(packets)
    assert set(packets) <= {-1, *range(len(steps))}
    assert all(missing >= 0 for _, missing in found)
    assert reorder.flush() == []
