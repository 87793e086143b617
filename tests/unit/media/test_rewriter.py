"""However sources change, a receiver hears one stream without a hole."""

from hypothesis import given, strategies as st

from sfu.media.packet import sequence_delta
from sfu.media.rewriter import Rewriter

SOURCE = st.tuples(
    st.integers(0, 0xFFFF),  # first sequence number
    st.integers(0, 0xFFFFFFFF),  # first timestamp
    st.integers(1, 40),  # packets
    st.floats(0.001, 30),  # pause before it
)


@given(
    first_sequence=st.integers(0, 0xFFFF),
    first_timestamp=st.integers(0, 0xFFFFFFFF),
    sources=st.lists(SOURCE, min_size=1, max_size=8),
    order=st.randoms(use_true_random=False),
)
def test_outgoing_numbers_are_continuous_over_switches(first_sequence, first_timestamp, sources, order):
    """Over wraps and reordering: each number once, none left out, and media time only goes on."""
    rewriter = Rewriter(first_sequence, first_timestamp, 90_000)
    out, now, before = [], 0.0, None
    for sequence, timestamp, count, pause in sources:
        now += pause
        rewriter.switch(sequence, timestamp, now)
        rest = list(range(1, count))
        for at in range(0, len(rest) - 1, 3):  # neighbours overtake each other
            if order.random() < 0.5:
                rest[at], rest[at + 1] = rest[at + 1], rest[at]
        for step in [0, *rest]:
            numbers = rewriter.map((sequence + step) & 0xFFFF, (timestamp + 3000 * step) & 0xFFFFFFFF, now)
            assert numbers is not None
            out.append(numbers)
            assert rewriter.source_sequence(numbers[0]) == (sequence + step) & 0xFFFF
        first = out[-count]
        if before is not None:
            ahead = (first[1] - before[1]) & 0xFFFFFFFF
            assert ahead == max(1, round(pause * 90_000))
        newest = max(range(count), key=lambda step: sequence_delta(out[step - count][0], first[0]))
        before = out[newest - count]
    total = sum(count for _, _, count, _ in sources)
    assert sorted((number - first_sequence) & 0xFFFF for number, _ in out) == list(range(total))
    assert out[0] == (first_sequence, first_timestamp)


def test_a_hole_of_the_source_is_a_hole_of_the_outgoing_stream():
    """So that the receiver asks for it, and it can be found."""
    rewriter = Rewriter(100, 0, 90_000)
    rewriter.switch(5000, 0, 0.0)
    assert [rewriter.map(s, 0, 0.0)[0] for s in (5000, 5003, 5001)] == [100, 103, 101]
    assert rewriter.source_sequence(102) == 5002


def test_packets_from_before_the_switch_have_no_number():
    """Theirs were given to the source before."""
    rewriter = Rewriter(100, 0, 90_000)
    rewriter.switch(5000, 0, 0.0)
    rewriter.map(5000, 0, 0.0)
    assert rewriter.map(4999, 0, 0.0) is None
    assert rewriter.map(5000 - 0x4000, 0, 0.0) is None
    assert rewriter.map(5001, 0, 0.0) == (101, 0)


def test_only_what_went_out_of_this_source_is_found():
    """Not the source before, nothing that has not been sent."""
    rewriter = Rewriter(100, 0, 90_000)
    rewriter.switch(5000, 0, 0.0)
    rewriter.map(5000, 0, 0.0)
    rewriter.switch(9000, 0, 1.0)
    rewriter.map(9000, 0, 1.0)
    assert rewriter.source_sequence(101) == 9000
    assert rewriter.source_sequence(100) is None
    assert rewriter.source_sequence(102) is None


def test_a_switch_before_anything_went_out_keeps_the_first_numbers():
    """A source that sent nothing leaves no trace."""
    rewriter = Rewriter(100, 7, 90_000)
    rewriter.switch(5000, 1, 0.0)
    rewriter.switch(6000, 2, 10.0)
    assert rewriter.map(6000, 2, 10.0) == (100, 7)


def test_media_time_goes_on_as_the_clock_does():
    """A pause of half a second between sources is half a second of media time, at least one tick."""
    rewriter = Rewriter(0, 0, 48_000)
    rewriter.switch(1, 1_000_000, 0.0)
    rewriter.map(1, 1_000_000, 0.0)
    rewriter.switch(1, 5, 0.5)
    assert rewriter.map(1, 5, 0.5) == (1, 24_000)
    rewriter.switch(1, 99, 0.5)
    assert rewriter.map(1, 99, 0.5) == (2, 24_001)


def test_a_long_source_wraps_many_times():
    """Late packets are still told from those before the source, and numbers do not drift."""
    rewriter = Rewriter(30_000, 0, 90_000)
    rewriter.switch(60_000, 0, 0.0)
    for step in range(0, 400_000, 50):
        sequence = (60_000 + step) & 0xFFFF
        assert rewriter.map(sequence, 0, 0.0)[0] == (30_000 + step) & 0xFFFF
        late = (sequence - 20) & 0xFFFF
        if step:
            assert rewriter.map(late, 0, 0.0)[0] == (30_000 + step - 20) & 0xFFFF
        assert rewriter.source_sequence((30_000 + step) & 0xFFFF) == sequence
