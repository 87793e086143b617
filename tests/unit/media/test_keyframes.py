"""One request at a time, repeated until a keyframe comes, and not for ever."""

from sfu.media.keyframes import MAX_REPEATS, MIN_INTERVAL_S, RETRY_S, KeyframeRequests


def test_the_first_wish_asks_at_once():
    """And the ones right behind it do not."""
    requests = KeyframeRequests()
    assert requests.next_timer() is None
    assert requests.want(10.0)
    assert not requests.want(10.1)
    assert not requests.want(10.0 + RETRY_S * 0.9)


def test_an_unmet_wish_is_repeated():
    """At the timer, not before."""
    requests = KeyframeRequests()
    requests.want(10.0)
    assert requests.next_timer() == 10.0 + RETRY_S
    assert not requests.handle_timer(10.0 + RETRY_S / 2)
    assert requests.handle_timer(10.0 + RETRY_S)
    assert requests.next_timer() == 10.0 + 2 * RETRY_S


def test_a_keyframe_meets_every_wish():
    """Nothing is repeated after it."""
    requests = KeyframeRequests()
    requests.want(10.0)
    requests.arrived()
    assert requests.next_timer() is None
    assert not requests.handle_timer(20.0)


def test_a_wish_right_after_a_keyframe_waits():
    """It is remembered, and asked for when the interval is over."""
    requests = KeyframeRequests()
    requests.want(10.0)
    requests.arrived()
    assert not requests.want(10.1)
    assert requests.next_timer() == 10.0 + MIN_INTERVAL_S
    assert requests.handle_timer(10.0 + MIN_INTERVAL_S)


def test_it_does_not_repeat_for_ever():
    """A dead path or a muted camera is left alone until somebody wishes again."""
    requests = KeyframeRequests()
    requests.want(0.0)
    repeats = 0
    while (due := requests.next_timer()) is not None:
        repeats += requests.handle_timer(due)
    assert repeats == MAX_REPEATS
    assert requests.want(100.0)
    assert requests.next_timer() == 100.0 + RETRY_S
