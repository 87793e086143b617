"""How fast one client may speak, and how much nonsense."""

import pytest

from sfu.signaling.limits import (
    BAD_FRAMES_WINDOW_S,
    BURST,
    MAX_BAD_FRAMES,
    MAX_REFUSALS,
    Patience,
    TokenBucket,
)


def taken(bucket, now, tries=1000):
    return sum(bucket.take(now) for _ in range(tries))


def test_a_burst_is_saved_up_and_not_more():
    bucket = TokenBucket(10, 5, 100.0)
    assert taken(bucket, 100.0) == 5
    assert taken(bucket, 100.2) == 2
    assert taken(bucket, 1000.0) == 5


def test_a_steady_client_at_the_rate_is_never_refused():
    bucket = TokenBucket(4, 1, 0.0)
    assert all(bucket.take(n / 4) for n in range(100))


def test_half_a_message_is_none():
    bucket = TokenBucket(1, 1, 0.0)
    assert bucket.take(0.0)
    assert not bucket.take(0.5)
    assert bucket.take(1.0)


def test_a_client_may_begin_with_a_burst():
    patience = Patience(0.0)
    assert all(patience.may_speak(0.0) for _ in range(int(BURST)))
    assert not patience.may_speak(0.0)
    assert not patience.too_fast


def test_who_does_not_listen_is_too_fast():
    patience = Patience(0.0)
    assert taken_until_refused(patience) == BURST
    for _ in range(MAX_REFUSALS - 2):
        patience.may_speak(0.0)
        assert not patience.too_fast
    patience.may_speak(0.0)
    assert patience.too_fast


def taken_until_refused(patience):
    count = 0
    while patience.may_speak(0.0):
        count += 1
    return count


def test_who_falls_quiet_is_forgiven():
    patience = Patience(0.0)
    taken_until_refused(patience)
    for _ in range(MAX_REFUSALS - 2):
        patience.may_speak(0.0)
    later = 60.0
    assert all(patience.may_speak(later) for _ in range(int(BURST)))
    assert not patience.may_speak(later)
    assert not patience.too_fast


@pytest.mark.parametrize("rate", [200, 1_000, 5_000])
def test_who_floods_for_a_minute_is_too_fast_though_a_message_gets_through_now_and_then(rate):
    """With every message that the bucket grants (50 a second) the refusals must not be forgotten."""
    patience = Patience(0.0)
    for number in range(60 * rate):
        if not patience.may_speak(number / rate) and patience.too_fast:
            return
    raise AssertionError(f"{rate} messages a second are borne for ever")


def test_some_bad_frames_are_borne_and_one_more_is_not():
    patience = Patience(0.0)
    assert [patience.bad_frame(1.0) for _ in range(MAX_BAD_FRAMES + 1)] == [False] * MAX_BAD_FRAMES + [True]


@pytest.mark.parametrize(
    ("later", "forgiven"), [(BAD_FRAMES_WINDOW_S, False), (BAD_FRAMES_WINDOW_S + 0.1, True)]
)
def test_bad_frames_are_forgotten_after_the_window(later, forgiven):
    patience = Patience(0.0)
    for _ in range(MAX_BAD_FRAMES):
        patience.bad_frame(0.0)
    assert patience.bad_frame(later) is not forgiven
