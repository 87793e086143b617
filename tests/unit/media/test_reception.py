"""Loss and jitter as RFC 3550 counts them."""

import pytest
from hypothesis import given, strategies as st

from sfu.media.reception import Reception


def receive(reception: Reception, *sequences: int) -> None:
    for sequence in sequences:
        reception.receive(sequence & 0xFFFF, 0, 100, 0.0)


def test_nothing_received_is_nothing_lost():
    """Before the first packet there is nothing to say."""
    reception = Reception(90_000)
    assert (reception.expected, reception.lost, reception.take_fraction_lost()) == (0, 0, 0)


@given(
    first=st.integers(0, 0xFFFF),
    gaps=st.lists(st.integers(1, 3000), max_size=120),
)
def test_what_did_not_arrive_is_lost(first, gaps):
    """Over any number of wraps, the extended number and the loss are right."""
    reception, sequence = Reception(90_000), first
    receive(reception, sequence)
    for gap in gaps:
        sequence += gap
        receive(reception, sequence)
    assert reception.extended_highest == sequence
    assert reception.expected == sequence - first + 1
    assert reception.lost == sequence - first - len(gaps)
    assert reception.received == len(gaps) + 1
    assert reception.octets == 100 * (len(gaps) + 1)


def test_reordering_is_no_loss():
    """Late packets fill their gap, over the wrap as well."""
    reception = Reception(90_000)
    receive(reception, 65534, 1, 65535, 0)
    assert (reception.extended_highest, reception.expected, reception.lost) == (0x10001, 4, 0)


def test_duplicates_can_make_the_loss_negative():
    """As RFC 3550 section 6.4.1 says."""
    reception = Reception(90_000)
    receive(reception, 1, 1, 1)
    assert reception.lost == -2
    assert reception.take_fraction_lost() == 0


def test_the_loss_stays_within_its_24_bits():
    """It is clamped, at both ends."""
    reception = Reception(90_000)
    receive(reception, *range(0, 0x8000 * 300, 0x7FFF))
    assert reception.lost == 0x7FFFFF
    reception = Reception(90_000)
    receive(reception, 1)
    reception.received = 0x900000
    assert reception.lost == -0x800000


def test_the_fraction_is_since_it_was_last_taken():
    """A quarter lost is 64 of 256; then nothing."""
    reception = Reception(90_000)
    receive(reception, 0, 1, 3)
    assert reception.take_fraction_lost() == 64
    receive(reception, 4, 5)
    assert reception.take_fraction_lost() == 0
    assert reception.take_fraction_lost() == 0
    receive(reception, 1000)
    assert reception.take_fraction_lost() == 255


def test_an_even_stream_has_no_jitter():
    """Arrival as media time says, packets of one frame at different times."""
    reception = Reception(90_000)
    for frame in range(20):
        reception.receive(2 * frame, 3000 * frame, 100, frame / 30)
        reception.receive(2 * frame + 1, 3000 * frame, 100, frame / 30)
    assert reception.jitter == pytest.approx(0, abs=1e-6)


def test_jitter_is_smoothed_by_a_sixteenth():
    """RFC 3550 section 6.4.1, over the wrap of the timestamps."""
    reception = Reception(8_000)
    reception.receive(1, 0xFFFFFFFF - 79, 100, 0.0)
    reception.receive(2, 80, 100, 0.030)  # 20 ms of media in 30 ms
    assert reception.jitter == pytest.approx(80 / 16)
    reception.receive(3, 240, 100, 0.050)
    assert reception.jitter == pytest.approx(80 / 16 * 15 / 16)


def test_a_jump_of_the_timestamps_is_no_jitter():
    """A new source behind the same SSRC does not spoil the measure."""
    reception = Reception(90_000)
    reception.receive(1, 0, 100, 0.0)
    reception.receive(2, 90_000 * 3600, 100, 0.02)
    assert reception.jitter == 0
