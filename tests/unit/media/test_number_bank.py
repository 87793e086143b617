"""Counters side by side, one a peer."""

import numpy as np
import pytest

from sfu.media.number_bank import SENT_KEPT, NumberBank


def test_counters_begin_at_zero_and_wrap():
    """Each counts for itself."""
    bank = NumberBank()
    one, other = bank.take(), bank.take()
    assert [bank.next(one, 100, 1.0) for _ in range(3)] == [1, 2, 3]
    assert bank.next(other, 100, 1.0) == 1
    bank.values[one] = 0xFFFE
    assert [bank.next(one, 100, 1.0) for _ in range(3)] == [0xFFFF, 0, 1]


def test_a_place_that_was_given_back_begins_anew():
    """Whoever takes it next does not go on where the last one stopped."""
    bank = NumberBank()
    place = bank.take()
    bank.next(place, 100, 1.0)
    bank.give_back(place)
    assert bank.take() == place
    assert bank.next(place, 100, 1.0) == 1


def test_there_is_a_place_for_everybody():
    """Beyond the first ones the bank grows; nobody's number changes by it."""
    bank = NumberBank()
    places = [bank.take() for _ in range(64)]
    for place in places:
        bank.values[place] = place + 100
    places += [bank.take() for _ in range(100)]
    assert len(set(places)) == 164
    assert max(places) < len(bank.values)
    assert [bank.next(place, 100, 1.0) for place in places[:64]] == [place + 101 for place in places[:64]]
    assert [bank.next(place, 100, 1.0) for place in places[64:]] == [1] * 100


def test_what_was_sent_is_remembered_by_number():
    """Time and size of each, also over the end of the numbers; a batch notes the same."""
    bank = NumberBank()
    place, other = bank.take(), bank.take()
    bank.values[place] = 0xFFFE
    bank.next(place, 100, 10.0)
    bank.next(place, 200, 10.5)
    places, out = np.array([other, place]), np.zeros(2, np.uint16)
    bank.next_block(places, places * SENT_KEPT, out, 300, 11.0)
    assert out.tolist() == [1, 1]
    times, sizes = bank.recall(place, 0xFFFF, 4, 11.0)
    assert times[:3] == pytest.approx([10.0, 10.5, 11.0])
    assert sizes == [100, 200, 300, 0]
    assert bank.recall(other, 1, 1, 11.0) == ([pytest.approx(11.0)], [300])


def test_what_was_sent_long_ago_is_forgotten():
    """Feedback comes within a second; a place begins with nothing."""
    bank = NumberBank()
    place = bank.take()
    bank.next(place, 100, 10.0)
    assert bank.recall(place, 1, 1, 14.0)[1] == [0]
    bank.give_back(place)
    assert bank.recall(bank.take(), 1, 1, 10.0)[1] == [0]
