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


def test_each_packet_is_told_by_its_own_age():
    """Of one feedback some may be forgotten and some not."""
    bank = NumberBank()
    place = bank.take()
    for number, at in enumerate((7.0, 7.5, 9.99, 10.0), 1):
        assert bank.next(place, 100 * number, at) == number
    times, sizes = bank.recall(place, 1, 5, 10.4)
    assert sizes == [0, 200, 300, 400, 0]
    assert times[1:4] == pytest.approx([7.5, 9.99, 10.0], abs=1e-6)


def test_what_goes_round_in_memory_is_told_right():
    """The last so many, over the end of the ring and of the numbers, each with its own time and size."""
    bank = NumberBank()
    place = bank.take()
    first = 0x10000 - SENT_KEPT // 2 - 300
    bank.values[place] = first - 1
    total = SENT_KEPT + 500
    for step in range(total):
        assert bank.next(place, 1000 + step % 800, 50.0 + step / 1000) == (first + step) & 0xFFFF
    kept = range(total - SENT_KEPT, total)
    oldest = (first + kept[0]) & 0xFFFF
    times, sizes = bank.recall(place, oldest, SENT_KEPT, 51.6)
    assert sizes == [1000 + step % 800 for step in kept]
    assert times == pytest.approx([50.0 + step / 1000 for step in kept], abs=1.1e-6)
    assert bank.recall_bytes(place, oldest, SENT_KEPT) == sum(sizes)
    middle = bank.recall(place, 0xFFFD, 7, 51.6)
    at = 0xFFFD - oldest
    assert middle == (times[at : at + 7], sizes[at : at + 7])


def test_what_others_sent_is_not_told():
    """Neighbours count and remember for themselves, whoever sends, singly or in a batch."""
    bank = NumberBank()
    places = [bank.take() for _ in range(3)]
    for place in places:
        bank.values[place] = SENT_KEPT - 2  # the next ones stand at the end of a row, and at its beginning
    ours, beside = np.array(places[:1]), np.array(places[1:])
    for at in range(3):
        bank.next_block(ours, ours * SENT_KEPT, np.zeros(1, np.uint16), 10 + at, 5.0)
        bank.next_block(beside, beside * SENT_KEPT, np.zeros(2, np.uint16), 500 + at, 6.0)
    assert bank.recall(places[0], SENT_KEPT - 2, 5, 6.0)[1] == [0, 10, 11, 12, 0]
    for place in places[1:]:
        times, sizes = bank.recall(place, SENT_KEPT - 1, 3, 6.0)
        assert (times, sizes) == (pytest.approx([6.0] * 3), [500, 501, 502])
        assert bank.recall_bytes(place, SENT_KEPT - 1, 3) == 1503


def test_what_was_sent_is_remembered_when_the_bank_grows():
    """More peers come; nobody's packets become another's."""
    bank = NumberBank()
    first = [bank.take() for _ in range(64)]
    for place in first:
        bank.next(place, 100 + place, 1.0)
    more = [bank.take() for _ in range(64)]
    for place in more:
        assert bank.recall(place, 1, 1, 1.0)[1] == [0]
        bank.next(place, 1000 + place, 1.0)
    assert [bank.recall(place, 1, 1, 1.0)[1] for place in first] == [[100 + place] for place in first]
    assert [bank.recall_bytes(place, 1, 1) for place in more] == [1000 + place for place in more]


def test_bytes_are_counted_over_a_stretch_of_numbers():
    """From a number on, so many; what was never sent has none, and neither has a place begun anew."""
    bank = NumberBank()
    place = bank.take()
    bank.values[place] = 0xFFFE
    for size in (100, 20, 3):
        bank.next(place, size, 1.0)
    assert [bank.recall_bytes(place, 0xFFFF, count) for count in range(5)] == [0, 100, 120, 123, 123]
    assert bank.recall_bytes(place, 0, 2) == 23
    bank.give_back(place)
    assert bank.recall_bytes(bank.take(), 0xFFFF, 3) == 0


@pytest.mark.parametrize("now", [0.5, 86_400.0 * 365, 4e6 + 0.123456])
def test_times_are_told_to_the_microsecond_however_long_a_server_runs(now):
    """Beside the largest packet that there is."""
    bank = NumberBank()
    place = bank.take()
    bank.next(place, 0xFFFF, now)
    (at,), sizes = bank.recall(place, 1, 1, now)
    assert at == pytest.approx(now, abs=2e-6, rel=0)
    assert sizes == [0xFFFF]
