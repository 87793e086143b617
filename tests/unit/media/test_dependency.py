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
        told = reader.read(bytes.fromhex(text))
        is_key, ends = text == STRUCTURE, bool(int(text[:2], 16) & 0x40)
        assert told == Told(temporal, begins=True, is_sync=is_sync, ends=ends, is_key=is_key), text
    # The last packet of a frame, which ends it.
    assert reader.read(bytes.fromhex("4301261260")) == Told(1, begins=False, is_sync=True, ends=True)


# Chromium 156, VP9 in L3T3_KEY and L3T3: the first packets of the frames of three pictures, what spatial and
# temporal layer each is of, and whether larger pictures need it.
KEYED = [
    (
        "c0000480081485214eaaaaa8000600004000100002aa80a8000600004000100002a000a800060000400016d549241b552490"
        "6d54923157e001974ca864330e222396eca8655304224390eca87753013f00b3027f016704ff02cf",
        (0, 0, True),
    ),
    ("850005", (1, 0, True)),
    ("8a0006", (2, 0, False)),
    ("c30007", (0, 2, False)),
    ("c80008", (1, 2, False)),
    ("8d0009", (2, 2, False)),
    ("c2000a", (0, 1, False)),
    ("87000b", (1, 1, False)),
    ("8c000c", (2, 1, False)),
]
NESTED = [
    (
        "c1000480081485214eafffaaaa863cf0430c10c302afc0aaa0063c00430010c002a000a80006000040001d954926e082b04a"
        "0941b820ac1282503157f974000ca864330e222222eca8655304224230eca87753013f00b3027f016704ff02cf",
        (0, 0, True),
    ),
    ("860005", (1, 0, True)),
    ("8b0006", (2, 0, False)),
    ("c30007", (0, 2, True)),
    ("c80008", (1, 2, True)),
    ("8d0009", (2, 2, False)),
    ("c2000a", (0, 1, True)),
    ("c7000b", (1, 1, True)),
    ("8c000c", (2, 1, False)),
]


@pytest.mark.parametrize("frames", [KEYED, NESTED])
def test_spatial_layers_are_told_apart(frames):
    """Each size, and of which the larger ones need smaller ones."""
    reader = Dependencies()
    for index, (text, expected) in enumerate(frames):
        told = reader.read(bytes.fromhex(text))
        assert (told.spatial, told.temporal, told.serves_above) == expected, text
        assert told.is_key == (index == 0)
    assert (reader.spatial_layers, reader.highest) == (3, 2)
    assert reader.sizes == ((320, 180), (640, 360), (1280, 720))


def test_a_layer_that_is_not_sent_now_is_known():
    """Chromium 156, AV1 in L2T1: at first there are no bits for the larger picture, then there are."""
    reader = Dependencies()
    assert reader.read(bytes.fromhex("c10001c00123ba22891820d21001111813f80b3827f8167a")).is_key
    assert (reader.spatial_layers, reader.highest) == (2, 0)
    told = reader.read(bytes.fromhex("c000021a000800"))
    assert (told.spatial, told.is_key, reader.highest) == (0, False, 0)
    reader.read(bytes.fromhex("c000035e800202"))
    assert reader.highest == 1
    assert reader.sizes == ((640, 360), (1280, 720))
    assert reader.read(bytes.fromhex("830004")).spatial == 1


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
    assert told in (NOTHING_KNOWN, Told(0, begins=True, is_sync=False, is_key=True))
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
