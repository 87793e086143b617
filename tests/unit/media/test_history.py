"""The memory of one encoding: what is kept, and for how long."""

import pytest

from sfu.media.history import MAX_AGE_S, MAX_PACKETS, History
from sfu.media.packet import RtpPacket, build


def packet(sequence: int) -> RtpPacket:
    return RtpPacket(build(96, sequence & 0xFFFF, 0, 1, bytes(10)))


def test_what_was_added_is_found_by_its_number():
    """And nothing else is."""
    history, one = History(), packet(7)
    assert history.add(one, 0.0)
    assert history.get(7, 1.0) is one
    assert history.get(8, 1.0) is None
    assert len(history) == 1


def test_an_equal_number_replaces_nothing():
    """A duplicate is told, the first one stays."""
    history, first = History(), packet(7)
    history.add(first, 0.0)
    assert not history.add(packet(7), 0.1)
    assert history.get(7, 0.1) is first


def test_packets_grow_old():
    """What is older than three seconds is not given out."""
    history = History()
    history.add(packet(1), 0.0)
    history.add(packet(2), 1.0)
    assert history.get(1, MAX_AGE_S) is not None
    assert history.get(1, MAX_AGE_S + 0.1) is None
    assert history.get(2, MAX_AGE_S + 0.1) is not None


def test_no_more_packets_than_the_bound():
    """The oldest give way, also over the wrap of the numbers."""
    history = History()
    first = 0x10000 - 10
    for step in range(MAX_PACKETS + 5):
        assert history.add(packet(first + step), 0.0)
    assert len(history) == MAX_PACKETS
    assert history.get((first + 4) & 0xFFFF, 0.0) is None
    assert history.get((first + 5) & 0xFFFF, 0.0) is not None


def test_a_late_packet_is_kept_where_its_place_is_free():
    """In whichever order they come."""
    history, late = History(), packet(0xFFFF)
    history.add(packet(1), 0.0)
    assert history.add(late, 0.1)
    assert history.get(0xFFFF, 0.1) is late


def test_a_late_packet_does_not_take_the_place_of_a_later_one():
    """A whole ring too late it is refused, also over the wrap; the later one stays."""
    for number in (5000, 3):
        history, later = History(), packet(number)
        history.add(later, 0.0)
        assert not history.add(packet(number - MAX_PACKETS), 1.0)
        assert history.get(number, 1.0) is later


def test_a_place_is_free_again_when_its_packet_is_old():
    """A source that begins anew below its numbers is kept again after that time."""
    history, anew = History(), packet(5000 - MAX_PACKETS)
    history.add(packet(5000), 0.0)
    assert history.add(anew, MAX_AGE_S + 0.1)
    assert history.get(anew.sequence, MAX_AGE_S + 0.1) is anew


def test_a_number_may_come_again_after_it_is_gone():
    """Numbers wrap: the same one is somebody else's a minute later."""
    history, second = History(), packet(7)
    history.add(packet(7), 0.0)
    assert history.add(second, 60.0)
    assert history.get(7, 60.0) is second


@pytest.mark.parametrize("step", [1, 7, 3 * MAX_PACKETS, 0x7FFF, 0x7000])
def test_what_is_old_is_let_go(step):
    """After some seconds nothing older than the bound and two looks stands there, however numbers run."""
    history, sequence = History(), 0xFF00
    for tenth in range(300):
        now = tenth / 10
        for _ in range(5):
            sequence += step
            history.add(packet(sequence), now)
        if tenth % 10 == 0:
            history.expire(now)
            kept = [p for p in history._ring if p is not None]
            assert all(p.received_at >= now - MAX_AGE_S - 2 for p in kept)
            assert history.get(sequence & 0xFFFF, now) is not None
    for later in range(10):
        history.expire(now + later)
    assert len(history) == 0


def test_letting_go_keeps_what_is_young():
    """A late packet stands among older ones, at the edge of the ring."""
    history, late = History(), packet(MAX_PACKETS - 2)
    for number in (MAX_PACKETS - 3, MAX_PACKETS - 1, MAX_PACKETS, MAX_PACKETS + 1):
        history.add(packet(number), 0.0)
    history.expire(0.0)
    history.add(late, 2.0)
    history.expire(2.0)
    history.expire(MAX_AGE_S + 0.1)
    assert [p for p in history._ring if p is not None] == [late]
    assert history.get(late.sequence, MAX_AGE_S + 0.1) is late
