"""Counters side by side, one a peer."""

from sfu.media.number_bank import NumberBank


def test_counters_begin_at_zero_and_wrap():
    """Each counts for itself."""
    bank = NumberBank()
    one, other = bank.take(), bank.take()
    assert [bank.next(one) for _ in range(3)] == [1, 2, 3]
    assert bank.next(other) == 1
    bank.values[one] = 0xFFFE
    assert [bank.next(one) for _ in range(3)] == [0xFFFF, 0, 1]


def test_a_place_that_was_given_back_begins_anew():
    """Whoever takes it next does not go on where the last one stopped."""
    bank = NumberBank()
    place = bank.take()
    bank.next(place)
    bank.give_back(place)
    assert bank.take() == place
    assert bank.next(place) == 1


def test_there_is_a_place_for_everybody():
    """Beyond the first ones the bank grows; nobody's number changes by it."""
    bank = NumberBank()
    places = [bank.take() for _ in range(64)]
    for place in places:
        bank.values[place] = place + 100
    places += [bank.take() for _ in range(100)]
    assert len(set(places)) == 164
    assert max(places) < len(bank.values)
    assert [bank.next(place) for place in places[:64]] == [place + 101 for place in places[:64]]
    assert [bank.next(place) for place in places[64:]] == [1] * 100
