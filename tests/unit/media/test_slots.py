"""Tracks take slots, keep them, and stand beside their companions."""

from dataclasses import replace

from hypothesis import given, strategies as st

from sfu.media.slots import Candidate, Slot, assign

AUDIO = [Slot(f"a{n}", "audio", n) for n in range(3)]
VIDEO = [Slot(f"v{n}", "video", n) for n in range(3)]
SLOTS = [*AUDIO, *VIDEO]


def mic(who: str, priority: int = 0) -> Candidate:
    return Candidate(f"{who}-mic", who, "audio", "microphone", priority)


def cam(who: str, priority: int = 0) -> Candidate:
    return Candidate(f"{who}-cam", who, "video", "camera", priority)


def screen(who: str) -> Candidate:
    return Candidate(f"{who}-screen", who, "video", "screen")


def screen_audio(who: str) -> Candidate:
    return Candidate(f"{who}-sound", who, "audio", "screen_audio")


def test_nobody_and_nowhere():
    """Without slots or without tracks nothing is assigned."""
    assert assign([], [mic("ann")], {}) == {}
    assert assign(SLOTS, [], {"a0": "gone"}) == {}


def test_a_voice_and_its_face_stand_side_by_side():
    """Same number, so that lips and voice are in step."""
    found = assign(SLOTS, [mic("ann"), mic("bob"), cam("bob"), cam("ann")], {})
    assert found == {"a0": "ann-mic", "a1": "bob-mic", "v0": "ann-cam", "v1": "bob-cam"}


def test_a_face_without_voice_leaves_room_beside_voices():
    """It goes where no stranger's companion would come."""
    assert assign(SLOTS, [mic("ann"), cam("bob")], {}) == {"a0": "ann-mic", "v1": "bob-cam"}


def test_slots_follow_speech():
    """Whoever spoke later takes the slot of the longest silent one; equals keep what they have."""
    one = [Slot("v0", "video", 0)]
    ann, bob = cam("ann"), cam("bob")
    assert assign(one, [ann, bob], {}) == {"v0": "ann-cam"}
    assert assign(one, [ann, replace(bob, turn=5)], {"v0": "ann-cam"}) == {"v0": "bob-cam"}
    assert assign(one, [replace(ann, turn=5), replace(bob, turn=5)], {"v0": "bob-cam"}) == {"v0": "bob-cam"}
    assert assign(one, [replace(ann, turn=6), replace(bob, turn=5)], {"v0": "bob-cam"}) == {"v0": "ann-cam"}
    assert assign(one, [replace(ann, turn=6), screen("bob")], {}) == {"v0": "bob-screen"}


def test_a_screen_stands_beside_its_sound():
    """And not beside the voice of its owner."""
    found = assign(SLOTS, [mic("ann"), cam("ann"), screen_audio("ann"), screen("ann")], {})
    assert found == {"a0": "ann-mic", "v0": "ann-cam", "a1": "ann-sound", "v1": "ann-screen"}


def test_a_track_keeps_its_slot():
    """Others come and go around it."""
    bound = assign(SLOTS, [mic("ann"), mic("bob"), cam("bob")], {})
    again = assign(SLOTS, [mic("cyd"), mic("bob"), cam("bob")], bound)
    assert again["a1"] == bound["a1"] == "bob-mic"
    assert again["v1"] == bound["v1"] == "bob-cam"
    assert again["a0"] == "cyd-mic"


def test_when_slots_are_few_priority_stays_then_screens_then_who_has_one():
    """In this order."""
    slots = VIDEO[:2]
    assert set(assign(slots, [cam("ann"), cam("bob"), screen("cyd")], {}).values()) == {
        "cyd-screen",
        "ann-cam",
    }
    assert set(assign(slots, [cam("ann"), cam("bob", 1), screen("cyd")], {}).values()) == {
        "bob-cam",
        "cyd-screen",
    }
    bound = {"v0": "bob-cam", "v1": "cyd-cam"}
    assert set(assign(slots, [cam("ann"), cam("bob"), cam("cyd")], bound).values()) == {"bob-cam", "cyd-cam"}


def test_a_pinned_track_stands_where_it_was_pinned():
    """Also when it was elsewhere, or too low to be shown at all."""
    slots = [Slot("v0", "video", 0), Slot("v1", "video", 1, pinned_track_id="cyd-cam")]
    tracks = [cam("ann"), cam("bob"), cam("cyd")]
    assert assign(slots, tracks, {})["v1"] == "cyd-cam"
    assert assign(slots, tracks, {"v0": "cyd-cam", "v1": "bob-cam"}) == {"v0": "bob-cam", "v1": "cyd-cam"}
    assert assign(slots, [cam("ann")], {}) == {"v0": "ann-cam"}


def test_a_full_row_of_companions_still_gives_its_last_slots():
    """Where every free slot stands beside a stranger, one is taken all the same."""
    slots = [AUDIO[0], VIDEO[0]]
    assert assign(slots, [mic("ann"), cam("bob")], {}) == {"a0": "ann-mic", "v0": "bob-cam"}


def test_a_companions_neighbour_may_be_taken():
    """Then any other free slot does."""
    found = assign(SLOTS, [mic("ann"), cam("bob"), cam("ann")], {"v0": "bob-cam", "a0": "ann-mic"})
    assert found["v0"] == "bob-cam"
    assert found["v1"] == "ann-cam"


def test_unknown_sources_have_no_companion():
    """They are shown like any other."""
    other = Candidate("x", "ann", "video", "other")
    assert assign(SLOTS, [mic("ann"), other], {}) == {"a0": "ann-mic", "v1": "x"}


PEOPLE = st.sampled_from("abcdef")
CANDIDATES = st.lists(
    st.one_of(
        st.builds(mic, PEOPLE, st.integers(0, 2)),
        st.builds(cam, PEOPLE, st.integers(0, 2)),
        st.builds(screen, PEOPLE),
        st.builds(screen_audio, PEOPLE),
    ),
    max_size=12,
    unique_by=lambda candidate: candidate.track_id,
)
ROWS = st.lists(
    st.tuples(st.sampled_from(("audio", "video")), st.one_of(st.none(), PEOPLE.map("{}-cam".format))),
    max_size=8,
).map(
    lambda rows: [
        Slot(f"m{i}", kind, sum(k == kind for k, _ in rows[:i]), pin if kind == "video" else None)
        for i, (kind, pin) in enumerate(rows)
    ]
)


@given(ROWS, CANDIDATES, CANDIDATES)
def test_every_assignment_is_sound(slots, before, after):
    """Right kind, no slot left free while somebody waits, and what may stay stays."""
    bound = assign(slots, before, {})
    found = assign(slots, after, bound)
    kinds = {c.track_id: c.kind for c in after}
    by_mid = {slot.mid: slot for slot in slots}
    assert all(kinds[track] == by_mid[mid].kind for mid, track in found.items())
    assert assign(slots, after, found) == found
    for kind in ("audio", "video"):
        places = [slot for slot in slots if slot.kind == kind]
        filled = [mid for mid in found if by_mid[mid].kind == kind]
        pins = [s.pinned_track_id for s in places if s.pinned_track_id]
        if not pins:
            shown = [found[mid] for mid in filled]
            assert len(set(shown)) == len(shown)
            assert len(filled) == min(len(places), sum(c.kind == kind for c in after))
