"""Feedback bodies say of each number when it arrived, read by a decoder of their own."""

import struct

import pytest
from hypothesis import given, settings, strategies as st

from sfu.media.transport_cc import INTERVAL_S, MAX_STATUSES, ArrivalRecorder

TICK_S = 0.00025


def decode(body: bytes) -> tuple[int, int, int, list[float | None]]:
    """Return (base number, reference in s, feedback count, arrival of each number or None).

    After draft-holmer-rmcat-transport-wide-cc-extensions-01 section 3.1, with all chunk kinds.
    """
    base, count, word = struct.unpack_from("!HHI", body)
    reference, at, symbols = word >> 8, 8, []
    while len(symbols) < count:
        (chunk,) = struct.unpack_from("!H", body, at)
        at += 2
        if not chunk & 0x8000:
            assert chunk & 0x1FFF, "a run of nothing"
            symbols += [chunk >> 13 & 3] * (chunk & 0x1FFF)
        elif chunk & 0x4000:
            symbols += [chunk >> shift & 3 for shift in range(12, -1, -2)]
        else:
            symbols += [chunk >> bit & 1 for bit in range(13, -1, -1)]
    assert not any(symbols[count:]), "a packet beyond the count"
    ticks, arrivals = reference * 256, []
    for symbol in symbols[:count]:
        if symbol == 0:
            arrivals.append(None)
            continue
        if symbol == 1:
            ticks += body[at]
            at += 1
        else:
            assert symbol == 2
            ticks += struct.unpack_from("!h", body, at)[0]
            at += 2
        arrivals.append(ticks * TICK_S)
    assert at == len(body)
    return base, reference * 0.064, word & 0xFF, arrivals


def told(bodies: list[bytes]) -> list[tuple[int, float | None]]:
    """Return (number, arrival) of all bodies, which must follow upon each other."""
    found: list[tuple[int, float | None]] = []
    for body in bodies:
        base, _, _, arrivals = decode(body)
        if found:
            assert base == (found[-1][0] + 1) & 0xFFFF
        found += [((base + step) & 0xFFFF, at) for step, at in enumerate(arrivals)]
    return found


def feedback(arrivals: list[tuple[int, float]], at: float = 1e6) -> list[tuple[int, float | None]]:
    recorder = ArrivalRecorder()
    for number, now in arrivals:
        recorder.receive(number, now)
    return told(recorder.handle_timer(at))


@settings(max_examples=200)
@given(
    first=st.integers(0, 0xFFFF),
    start=st.floats(0, 100_000),
    steps=st.lists(
        st.tuples(
            st.one_of(st.just(1), st.integers(1, 12), st.integers(50, 300)),
            st.one_of(st.floats(0, 0.003), st.floats(0, 0.3)),
        ),
        max_size=60,
    ).filter(lambda steps: sum(gap for gap, _ in steps) < 1000),
    swaps=st.lists(st.integers(1, 58), max_size=10),
)
def test_every_arrival_is_told_within_a_tick(first, start, steps, swaps):
    """Wraps, gaps, runs, reordering, small and large deltas: what is read is what came."""
    arrivals, number, now = [], first, start
    numbers = [first]
    for gap, _ in steps:
        number += gap
        numbers.append(number & 0xFFFF)
    for at in swaps:
        if at < len(numbers) - 1:
            numbers[at], numbers[at + 1] = numbers[at + 1], numbers[at]
    for index, value in enumerate(numbers):
        now += steps[index - 1][1] if index else 0
        arrivals.append((value, now))
    found = feedback(arrivals)
    assert [n for n, _ in found] == [(first + step) & 0xFFFF for step in range(len(found))]
    seen = {n: at for n, at in found if at is not None}
    assert seen.keys() == set(numbers)
    for value, when in arrivals:
        assert seen[value] == pytest.approx(when, abs=TICK_S)


@pytest.mark.parametrize(
    "gaps",
    [
        [1] * 6,  # a run that ends the list
        [1] * 400,  # more than one body
        [2] * 20,  # nothing but vectors
        [1] * 10 + [50] + [1] * 10,  # run, long loss, run
        [1, 1, 1, 2, 1, 3, 1],
        [999],
        [7],
        [8],
    ],
)
def test_patterns_of_loss_come_through(gaps):
    """Run lengths and vectors, at their borders."""
    numbers = [65_500]
    for gap in gaps:
        numbers.append((numbers[-1] + gap) & 0xFFFF)
    found = feedback([(number, 5 + 0.001 * i) for i, number in enumerate(numbers)])
    assert [n for n, at in found if at is not None] == numbers


def test_feedback_is_sent_after_an_interval():
    """Not before, and only when something arrived."""
    recorder = ArrivalRecorder()
    assert recorder.next_timer() is None
    assert recorder.handle_timer(5.0) == []
    recorder.receive(1, 10.0)
    recorder.receive(2, 10.05)
    assert recorder.next_timer() == 10.0 + INTERVAL_S
    assert recorder.handle_timer(10.05) == []
    assert len(recorder.handle_timer(10.0 + INTERVAL_S)) == 1
    assert recorder.next_timer() is None
    assert recorder.handle_timer(20.0) == []


def test_feedbacks_go_on_where_the_last_one_ended():
    """A loss between two of them is told by the second; each has the next count."""
    recorder = ArrivalRecorder()
    recorder.receive(65_535, 1.0)
    bodies = recorder.handle_timer(2.0)
    recorder.receive(2, 3.0)
    bodies += recorder.handle_timer(4.0)
    assert [n for n, _ in told(bodies)] == [65_535, 0, 1, 2]
    assert [at is None for _, at in told(bodies)] == [False, True, True, False]
    assert [decode(body)[2] for body in bodies] == [0, 1]


def test_the_count_of_feedbacks_wraps_at_eight_bits():
    """The 257th is number 0 again."""
    recorder, body = ArrivalRecorder(), b""
    for number in range(257):
        recorder.receive(number, float(number))
        (body,) = recorder.handle_timer(number + 0.5)
    assert decode(body)[2] == 0


def test_what_comes_after_it_was_told_lost_stays_lost():
    """Feedback is not taken back."""
    recorder = ArrivalRecorder()
    recorder.receive(1, 1.0)
    recorder.receive(3, 1.0)
    recorder.handle_timer(2.0)
    recorder.receive(2, 2.0)
    assert recorder.next_timer() is None


def test_a_repeated_number_keeps_its_first_arrival():
    """A duplicate does not move it."""
    assert feedback([(1, 1.0), (1, 1.05)]) == [(1, pytest.approx(1.0, abs=TICK_S))]


def test_a_jump_is_a_new_beginning():
    """Thousands of numbers are not told as lost."""
    recorder = ArrivalRecorder()
    recorder.receive(1, 1.0)
    recorder.receive(20_000, 1.01)
    recorder.receive(20_001, 1.02)
    assert [n for n, _ in told(recorder.handle_timer(2.0))] == [20_000, 20_001]


def test_one_body_covers_so_many_numbers():
    """More go into the next, so that each fits a packet."""
    recorder = ArrivalRecorder()
    for number in range(MAX_STATUSES + 1):
        recorder.receive(number, number * 0.0001)
    bodies = recorder.handle_timer(10.0)
    assert [len(decode(body)[3]) for body in bodies] == [MAX_STATUSES, 1]
    assert max(map(len, bodies)) < 1200


def test_a_body_in_which_all_are_lost_keeps_the_time():
    """The reference time of a body without arrivals does not fall back to zero.

    A sender takes the difference of reference times for time that went by.
    """
    recorder = ArrivalRecorder()
    recorder.receive(0, 1000.0)
    recorder.receive(950, 1000.01)
    references = [decode(body)[1] for body in recorder.handle_timer(1001.0)]
    assert len(references) == 3
    assert references == pytest.approx([1000, 1000, 1000], abs=0.1)


def test_arrivals_too_far_apart_are_told_as_lost():
    """Eight seconds between two packets cannot be said in a delta."""
    found = feedback([(1, 1.0), (2, 20.0), (3, 1.1)])
    assert [at is None for _, at in found] == [False, True, False]


@pytest.mark.parametrize("apart", [0.06375, 0.064, 8.0, -0.5, -8.0])
def test_deltas_of_every_size_are_told(apart):
    """One byte up to 63.75 ms, two bytes above and below."""
    found = feedback([(1, 100.0), (2, 100.0 + apart)])
    assert found[1][1] - found[0][1] == pytest.approx(apart, abs=TICK_S)
