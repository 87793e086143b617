"""Temporal layers as dependency descriptors tell them; those of a browser stand here as they came."""

import pytest
from hypothesis import given, strategies as st

from sfu.media.dependency import MAX_TEMPORAL_LAYERS, NOTHING_KNOWN, Dependencies, Told

# Chromium 156, VP8 in three temporal layers: the first packets of the frames from a keyframe on, what
# temporal layer each is of, and whether it needs nothing but the lowest.
STRUCTURE = "8001128002044eaaaf2860414d34538a0940409fc059c0"
FRAMES = [
    (STRUCTURE, 0, False),
    ("8501141220", 2, True),
    ("8301161260", 1, True),
    ("8501181220", 2, False),
    ("82011a12e0", 0, False),
    ("85011c12a880", 2, False),
    ("84011e12e980", 1, False),
    ("8501201220", 2, False),
    ("80012212e0", 0, False),
    ("8501241220", 2, True),
    ("8301261260", 1, True),
]


def test_of_each_frame_it_is_known_to_which_layer_it_belongs():
    reader = Dependencies()
    for text, temporal, is_sync in FRAMES:
        assert reader.read(bytes.fromhex(text)) == Told(temporal, begins=True, is_sync=is_sync), text
    # The last packet of a frame, which ends it.
    assert reader.read(bytes.fromhex("4301261260")) == Told(1, begins=False, is_sync=True)


def test_before_the_structure_nothing_is_known():
    reader = Dependencies()
    assert reader.read(bytes.fromhex("8501141220")) == NOTHING_KNOWN
    assert reader.read(bytes.fromhex(STRUCTURE)).temporal == 0


def test_what_a_frame_that_never_came_was_is_not_known():
    """Then it is none to begin with."""
    reader = Dependencies()
    reader.read(bytes.fromhex(STRUCTURE))
    reader.read(bytes.fromhex("8301161260"))
    # It needs the frame two before, which is of the lowest layer, or was lost.
    assert not reader.read(bytes.fromhex("8501181220")).is_sync
    assert not reader.read(bytes.fromhex("83012a1260")).is_sync


@pytest.mark.parametrize("length", range(len(STRUCTURE) // 2))
def test_one_that_is_cut_says_nothing_or_what_stood_before_the_cut(length):
    reader = Dependencies()
    told = reader.read(bytes.fromhex(STRUCTURE)[:length])
    assert told in (NOTHING_KNOWN, Told(0, begins=True, is_sync=False))
    assert reader.read(bytes.fromhex(STRUCTURE)).temporal == 0


def bits(*fields):
    """Bytes of numbers of so many bits each, as (number, bits), filled up with ones."""
    text = "".join(f"{number:0{size}b}" for number, size in fields)
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


@pytest.mark.parametrize(("step", "count"), [(1, MAX_TEMPORAL_LAYERS), (0, 64), (1, 62)])
def test_more_layers_or_templates_than_there_may_be_are_refused(step, count):
    head = [(1, 1), (0, 1), (0, 6), (1, 16), (1, 1), (0, 4), (0, 6), (0, 5)]
    rest = [(0, 2)] * 70 + [(0, 1)] * 70
    reader = Dependencies()
    assert reader.read(bits(*head, *[(step, 2)] * count, (3, 2), *rest)) == NOTHING_KNOWN
    fewer = MAX_TEMPORAL_LAYERS - 1 if step else 63
    assert reader.read(bits(*head, *[(step, 2)] * fewer, (3, 2), *rest)).temporal == 0


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_whatever_comes_is_read_or_passed_over(values):
    reader = Dependencies()
    for value in [bytes.fromhex(STRUCTURE), *values]:
        told = reader.read(value)
        assert -1 <= told.temporal < MAX_TEMPORAL_LAYERS
    reader.read(bytes.fromhex(STRUCTURE))
    assert reader.read(bytes.fromhex("8501141220")) == Told(2, begins=True, is_sync=True)
