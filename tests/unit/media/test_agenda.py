"""Who is called when."""

from hypothesis import given, strategies as st

from sfu.media.agenda import Agenda


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 10)), max_size=30))
def test_each_is_called_at_every_time_it_asked_for(calls):
    """At the first look at or after it, once however often, the longest waiting first; and then no more."""
    agenda = Agenda()
    for who, at in calls:
        agenda.call(who, at)
    before = -1.0
    for now in (0.0, 2.5, 5.0, 10.0):
        asked = sorted((at, who) for who, at in calls if before < at <= now)
        assert agenda.take(now) == list(dict.fromkeys(who for _, who in asked))
        before = now
    assert (len(agenda), agenda.take(11.0)) == (0, [])


def test_who_calls_while_it_is_being_called_comes_next_time():
    agenda = Agenda()
    agenda.call("a", 1.0)
    for who in agenda.take(1.0):
        agenda.call(who, 0.5)
    assert agenda.take(1.0) == ["a"]
