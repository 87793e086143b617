"""Which layer of each track an estimate allows: everybody something first, then better, and no flapping."""

import math
import random
from dataclasses import replace

import pytest

from sfu.media.allocation import HEADROOM, Allocation, LayerOption, Wish, allocate

# What a camera offers: rid, cost, width and height.
CAMERA = (
    LayerOption("q", 150_000, 320, 180),
    LayerOption("h", 500_000, 640, 360),
    LayerOption("f", 1_500_000, 1280, 720),
)
# The lowest layer of the first track is sent while the link takes this part of it.
LAST_RESORT = 0.7


def wish(mid: str, *costs: float, **said: object) -> Wish:
    """A slot whose layers "0", "1", ... cost so much; without costs it is a camera."""
    layers = tuple(LayerOption(str(rank), cost) for rank, cost in enumerate(costs)) or CAMERA
    return Wish(mid, layers, **said)


def rids(choice: Allocation) -> str:
    """The chosen layers in the order of mids; "-" for none."""
    return "".join(rid or "-" for _, rid in sorted(choice.layers.items()))


# Who gets what


def test_nobody_wishes_anything():
    """Only the audio is used, and nothing would be better."""
    assert allocate(1e6, [], 32_000) == Allocation({}, frozenset(), 32_000, 32_000)


def test_a_slot_without_layers_gets_nothing_and_takes_nothing():
    """It has no entry, is not limited, and the next one counts as the first."""
    choice = allocate(120_000, [Wish("a", ()), wish("b")])
    assert choice.layers == {"b": "q"}
    assert choice.limited == {"b"}


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        (115_499, "-"),
        (115_501, "q"),
        (549_999, "q"),
        (550_001, "h"),
        (1_649_999, "h"),
        (1_650_001, "f"),
        (math.inf, "f"),
    ],
)
def test_a_camera_gets_the_best_layer_that_fits_with_room_to_spare(estimate, expected):
    """And the lowest one while most of it fits: a picture that stutters is more than none."""
    assert rids(allocate(estimate, [wish("a")])) == expected


def test_audio_is_taken_off_first():
    """Video gets what is left of the estimate; both count as used."""
    assert rids(allocate(560_000, [wish("a")])) == "h"
    choice = allocate(560_000, [wish("a")], 32_000)
    assert rids(choice) == "q"
    assert choice.used_bps == 182_000
    assert choice.next_bps == pytest.approx(32_000 + 500_000 * HEADROOM)


def test_everybody_gets_something_before_anybody_gets_more():
    """Two low pictures rather than one that is sharp, even for the pinned one."""
    wishes = [wish("a", pinned=True, priority=5), wish("b")]
    assert rids(allocate(550_000, wishes)) == "qq"


def test_better_layers_go_in_turn_within_a_priority():
    """Nobody gets the third layer before everybody has the second."""
    wishes = [wish("a"), wish("b")]
    assert rids(allocate(720_000, wishes)) == "hq"
    assert rids(allocate(1_650_000 + 164_000, wishes)) == "hh"
    assert rids(allocate((1_500_000 + 500_000) * HEADROOM + 1, wishes)) == "fh"


def test_a_higher_priority_goes_all_the_way_up_first():
    """It gets its third layer before others get their second."""
    wishes = [wish("a"), wish("b", priority=1)]
    assert rids(allocate(1_830_000, wishes)) == "qf"


def test_a_pinned_slot_gets_its_layer_first():
    """Before any priority."""
    wishes = [wish("a", priority=9), wish("b", pinned=True)]
    assert rids(allocate(1_830_000, wishes)) == "qf"
    both = [wish("a", priority=1, pinned=True), wish("b", pinned=True)]
    assert rids(allocate(1_830_000, both)) == "fq"


def test_whoever_comes_last_is_paused_first():
    """Where the lowest layers of all do not fit, the least of them stay away."""
    wishes = [wish("a"), wish("b", priority=1), wish("c", pinned=True)]
    assert rids(allocate(340_000, wishes)) == "-qq"
    assert rids(allocate(200_000, wishes)) == "--q"


def test_a_small_one_behind_a_large_one_is_not_held_back():
    """What does not fit is passed over."""
    wishes = [wish("a", 100_000), wish("b", 900_000), wish("c", 100_000)]
    assert rids(allocate(300_000, wishes)) == "0-0"


def test_the_last_resort_is_for_the_first_one_only():
    """The second needs its whole rate."""
    assert rids(allocate(250_000, [wish("a"), wish("b")])) == "q-"


def test_nobody_is_paused_where_pausing_is_not_allowed():
    """Everybody has the lowest layer whatever it costs, and nobody more."""
    wishes = [wish("a"), wish("b"), wish("c")]
    choice = allocate(0.0, wishes, may_pause=False)
    assert rids(choice) == "qqq"
    assert choice.used_bps == 450_000
    assert rids(allocate(0.0, wishes)) == "---"


# The size that is asked for


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({"max_height": 180}, "q"),
        ({"max_height": 198}, "q"),
        ({"max_height": 199}, "h"),
        ({"max_width": 352}, "q"),
        ({"max_width": 353}, "h"),
        ({"max_width": 640, "max_height": 361}, "h"),
        ({"max_width": 320, "max_height": 720}, "f"),
        ({"max_width": 4000}, "f"),
        ({"max_width": 0}, "q"),
        ({}, "f"),
    ],
)
def test_no_layer_goes_beyond_the_size_asked_for(size, expected):
    """The first that fills it is enough; a tenth more is filled as well."""
    choice = allocate(1e7, [wish("a", **size)])
    assert rids(choice) == expected
    assert choice.limited == frozenset()
    assert choice.next_bps == choice.used_bps


def test_a_layer_of_unknown_size_fills_nothing():
    """Before its first keyframe nobody knows whether it suffices."""
    layers = (LayerOption("q", 150_000), CAMERA[1], CAMERA[2])
    assert rids(allocate(1e7, [Wish("a", layers, max_height=100)])) == "h"
    assert rids(allocate(1e7, [wish("a", 1, 2, 3, max_width=0)])) == "2"
    assert rids(allocate(1e7, [wish("a", 1, 2, 3, max_height=100)])) == "2"


def test_what_a_small_window_leaves_goes_to_the_others():
    """A thumbnail of high priority takes its lowest layer and no more."""
    wishes = [wish("a", priority=1, max_height=90), wish("b")]
    assert rids(allocate(1_830_000, wishes)) == "qf"


# What is limited, and what would be better


def test_whoever_gets_less_than_could_be_shown_is_limited():
    """Paused ones as well."""
    wishes = [wish("a", pinned=True), wish("b"), wish("c", 50_000)]
    choice = allocate(1_900_000, wishes)
    assert rids(choice) == "fq0"
    assert choice.limited == {"b"}
    assert allocate(225_000, wishes).limited == {"a", "b"}
    assert allocate(0.0, wishes).limited == {"a", "b", "c"}


def test_the_next_better_is_the_cheapest_step_with_room_to_spare():
    """Whoever takes it; then the next."""
    wishes = [wish("a", 100_000, 900_000, pinned=True), wish("b", 100_000, 300_000)]
    choice = allocate(300_000, wishes)
    assert rids(choice) == "00"
    assert (choice.used_bps, choice.next_bps) == (200_000, pytest.approx(400_000 * HEADROOM))
    choice = allocate(choice.next_bps, wishes)
    assert rids(choice) == "01"
    assert (choice.used_bps, choice.next_bps) == (400_000, pytest.approx(1_200_000 * HEADROOM))


def test_nothing_is_better_than_everything():
    choice = allocate(1e8, [wish("a"), wish("b", 7_000)], 1_000)
    assert choice.used_bps == choice.next_bps == 1_508_000
    assert choice.limited == frozenset()


def test_a_paused_slot_is_the_next_to_come_back():
    """With room to spare."""
    choice = allocate(200_000, [wish("a"), wish("b", 100_000)])
    assert rids(choice) == "q-"
    assert choice.next_bps == pytest.approx(250_000 * HEADROOM)
    assert rids(allocate(choice.next_bps + 1, [wish("a"), wish("b", 100_000)])) == "q0"


# What is shown already


@pytest.mark.parametrize(("shown", "cost"), [("h", 500_000), ("f", 1_500_000)])
def test_what_is_shown_is_kept_while_it_fits(shown, cost):
    """To the last bit; to come to it takes a tenth more."""
    seen, fresh = wish("a", shown=shown), wish("a", shown="q")
    assert rids(allocate(cost, [seen])) == shown
    assert rids(allocate(cost - 1, [seen])) != shown
    assert rids(allocate(cost * HEADROOM - 1, [fresh])) != shown
    assert rids(allocate(cost * HEADROOM + 1, [fresh])) == shown


def test_a_picture_that_is_shown_is_not_paused_for_want_of_room_to_spare():
    """One that comes back needs some."""
    wishes = [wish("a", shown="q"), wish("b", shown="q")]
    assert rids(allocate(300_000, wishes)) == "qq"
    assert rids(allocate(299_999, wishes)) == "q-"
    gone = [wish("a", shown="q"), wish("b")]
    assert rids(allocate(329_000, gone)) == "q-"
    assert rids(allocate(331_000, gone)) == "qq"


def test_who_is_shown_comes_before_a_newcomer():
    """Whichever slot is his, within one priority; better layers are not taken from him either."""
    assert rids(allocate(200_000, [wish("a"), wish("b", shown="q")])) == "-q"
    both = [wish("a", shown="q"), wish("b", shown="h")]
    assert rids(allocate(720_000, both)) == "qh"
    assert rids(allocate(200_000, [wish("a", priority=1), wish("b", shown="q")])) == "q-"


def test_the_last_resort_has_an_edge_of_its_own():
    """What is shown stays down to it; what is not needs room to spare above it."""
    assert rids(allocate(105_000, [wish("a", shown="q")])) == "q"
    assert rids(allocate(104_999, [wish("a", shown="q")])) == "-"


@pytest.mark.parametrize(
    ("center", "wishes"),
    [
        (105_000, [wish("a")]),
        (2_520_000, [wish("a", 2_016_000, priority=1), wish("b", 476_000)]),
        (760_000, [wish(str(number), 150_000) for number in range(5)]),
    ],
)
def test_nobody_comes_and_goes_at_an_edge(center, wishes):
    """An estimate that wobbles a little around the cost of what is shown changes it once at most."""
    switches, before = 0, None
    for estimate in wobble(center, 0.02):
        layers = allocate(estimate, wishes).layers
        wishes = [replace(each, shown=layers[each.mid]) for each in wishes]
        switches += before not in (None, layers)
        before = layers
    assert switches <= 1


def test_a_layer_that_ended_keeps_nothing():
    """Its rid is not among the options: what is left is judged as new."""
    assert rids(allocate(520_000, [wish("a", shown="z")])) == "q"


def wobble(center: float, share: float) -> list[float]:
    """Five slow waves."""
    return [center * (1 + share * math.sin(step * math.tau / 40)) for step in range(200)]


def walk(center: float, share: float, chance: random.Random) -> list[float]:
    """A random walk between two bounds."""
    at, found = 0.0, []
    for _ in range(200):
        at = max(-1.0, min(1.0, at + chance.uniform(-0.5, 0.5)))
        found.append(center * (1 + share * at))
    return found


def switches(estimates: list[float], wishes: list[Wish]) -> list[int]:
    """At which steps a choice differs from the one before, when each slot shows what was chosen before."""
    found, before = [], None
    for step, estimate in enumerate(estimates):
        layers = allocate(estimate, wishes).layers
        wishes = [replace(w, shown=layers[w.mid]) for w in wishes]
        if before is not None and layers != before:
            found.append(step)
        before = layers
    return found


def test_a_link_at_the_edge_does_not_make_a_picture_change_back_and_forth():
    """Less than a tenth up and down, anywhere: one change at most, and none after that."""
    chance = random.Random(0)
    for center in range(150_000, 2_000_000, 10_000):
        assert len(switches(wobble(center, 0.045), [wish("a")])) <= 1, center
        assert len(switches(walk(center, 0.045, chance), [wish("a")])) <= 1, center
    assert len(switches(wobble(525_000, 0.15), [wish("a")])) == 10  # what is larger is followed


def test_pictures_of_many_do_not_change_back_and_forth_either():
    """With rates and priorities of all kinds, where the lowest layers of all fit."""
    chance = random.Random(1)
    for _ in range(100):
        wishes = some_wishes(chance)
        center = sum(w.layers[0].bitrate_bps for w in wishes) * chance.uniform(1.25, 6)
        late = [step for step in switches(wobble(center, 0.04), wishes) if step > 80]
        assert late == []


# Whatever is wished


def some_wishes(chance: random.Random) -> list[Wish]:
    """One to six slots with up to four layers of any rates."""
    return [
        wish(
            str(mid),
            *sorted(chance.uniform(20_000, 3_000_000) for _ in range(chance.randint(1, 4))),
            priority=chance.randint(0, 2),
            pinned=chance.random() < 0.2,
        )
        for mid in range(chance.randint(1, 6))
    ]


def with_shown(wishes: list[Wish], chance: random.Random) -> list[Wish]:
    return [replace(w, shown=chance.choice([None, *(option.rid for option in w.layers)])) for w in wishes]


def cost_of(choice: Allocation, wishes: list[Wish]) -> float:
    rates = {w.mid: {option.rid: option.bitrate_bps for option in w.layers} for w in wishes}
    return sum(rates[mid][rid] for mid, rid in choice.layers.items() if rid is not None)


def test_what_is_chosen_fits_whatever_is_wished():
    """But for the last resort: the lowest layer of the first one, alone."""
    chance, resorts = random.Random(2), 0
    for _ in range(2_000):
        wishes = with_shown(some_wishes(chance), chance)
        audio = chance.choice([0.0, 32_000.0])
        estimate = chance.choice([5e4, 3e5, 2e6, 1e7]) * chance.uniform(0.5, 2)
        choice = allocate(estimate, wishes, audio)
        assert set(choice.layers) == {w.mid for w in wishes}
        for w in wishes:
            assert choice.layers[w.mid] in {None, *(option.rid for option in w.layers)}
            assert (choice.layers[w.mid] != w.layers[-1].rid) == (w.mid in choice.limited)
        used = cost_of(choice, wishes)
        assert choice.used_bps == pytest.approx(audio + used)
        assert choice.next_bps >= choice.used_bps
        assert (choice.next_bps == choice.used_bps) == (not choice.limited)
        if used > max(0.0, estimate - audio) + 1e-3:
            first = min(wishes, key=lambda w: (not w.pinned, -w.priority, w.shown is None))
            shown = {mid: rid for mid, rid in choice.layers.items() if rid is not None}
            assert shown == {first.mid: "0"}
            assert used * LAST_RESORT <= estimate - audio + 1e-3
            resorts += 1
    assert resorts > 10


def test_a_higher_estimate_gives_no_lower_total_but_for_the_room_to_spare():
    """To those who are shown everything already it gives no lower one at all."""
    chance = random.Random(3)
    for _ in range(300):
        wishes = with_shown(some_wishes(chance), chance)
        best = [replace(w, shown=w.layers[-1].rid) for w in wishes]
        before = before_best = 0.0
        for estimate in sorted(chance.uniform(1e4, 1.2e7) for _ in range(30)):
            used = allocate(estimate, wishes).used_bps
            assert used * HEADROOM >= before - 1e-3
            before = max(before, used)
            used_best = allocate(estimate, best).used_bps
            assert used_best >= before_best - 1e-3
            before_best = used_best


def test_without_pausing_everybody_has_a_layer_whatever_is_wished():
    """And nobody a better one beyond the estimate."""
    chance = random.Random(4)
    for _ in range(500):
        wishes = with_shown(some_wishes(chance), chance)
        estimate = chance.uniform(0, 6e6)
        choice = allocate(estimate, wishes, may_pause=False)
        assert None not in choice.layers.values()
        better = any(rid != "0" for rid in choice.layers.values())
        assert not better or choice.used_bps <= estimate


def test_the_next_better_is_reached_at_what_it_is_said_to_cost():
    """Just there the choice is another one, whatever is wished."""
    chance = random.Random(5)
    for _ in range(500):
        wishes = with_shown(some_wishes(chance), chance)
        choice = allocate(chance.uniform(1e4, 6e6), wishes)
        if choice.limited:
            better = allocate(choice.next_bps + 1, wishes)
            assert better.layers != choice.layers
