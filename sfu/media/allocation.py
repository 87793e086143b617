"""Which layer of each track a receiver gets: one pure function.

Audio is served before; what is left of the estimate goes to video. Everybody gets the
lowest layer first, in order of priority, so that nobody is black while somebody is sharp;
then better layers, a step at a time, within a priority in turn. What is shown already is
kept while it fits; anything better must fit with room to spare, so that a link at the edge
does not make pictures change back and forth. Below the lowest layer stands the same with fewer
frames, where its encoder tells them apart: a picture that stutters is more than none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

# A better layer than the shown one must leave this much of the link free.
HEADROOM = 1.10

# The lowest step of the first track is sent while the link takes this part of it: a picture
# that comes late is more than none, and sound goes first on the way as well.
_LAST_RESORT = 0.7

# Sizes differ a little from what is asked for: a window of 641 pixels needs no second layer.
_SIZE_TOLERANCE = 1.1


@dataclass(slots=True)
class Preference:
    """What a receiver said it needs of a slot or a track."""

    priority: int = 0
    paused: bool = False
    pinned: bool = False
    max_width: int | None = None
    max_height: int | None = None
    max_fps: int | None = None


class Extent(NamedTuple):
    """How far of an encoding is sent: up to which temporal and spatial layer; None: all of them."""

    temporal: int | None = None
    spatial: int | None = None


ALL: Final = Extent()


@dataclass(slots=True)
class LayerOption:
    """One layer that could be sent, or a part of it: its name, what it costs, and its size if it is known."""

    rid: str
    bitrate_bps: float
    width: int = 0
    height: int = 0
    extent: Extent = ALL


@dataclass(slots=True)
class Wish:
    """One slot: what could be shown there (worst first), and what the receiver said of it."""

    mid: str
    layers: tuple[LayerOption, ...]
    shown: str | None = None
    priority: int = 0
    pinned: bool = False
    max_width: int | None = None
    max_height: int | None = None
    # How far of what is shown.
    extent: Extent = ALL

    def usable(self) -> tuple[LayerOption, ...]:
        """Return the layers up to the first that fills the size asked for; at least one."""
        if self.max_width is None and self.max_height is None:
            return self.layers
        # A size asked for in one direction only is met in that direction.
        width, height = self.max_width or 0, self.max_height or 0
        for index, layer in enumerate(self.layers):
            fills = layer.width * _SIZE_TOLERANCE >= width and layer.height * _SIZE_TOLERANCE >= height
            if layer.height and fills and layer.extent.temporal is None:
                return self.layers[: index + 1]
        return self.layers


@dataclass(slots=True)
class Allocation:
    """Mid → rid of the layer to send, None where nothing fits; and what would satisfy every wish."""

    layers: dict[str, str | None]
    # Mids that get less than they could show.
    limited: frozenset[str]
    used_bps: float
    # The next better allocation costs this much; equal to `used_bps` when there is none.
    next_bps: float
    # Mid → how far of its layer.
    extents: dict[str, Extent] = field(default_factory=dict)

    def gives_least(self, wish: Wish) -> bool:
        """Tell whether a slot gets the cheapest that there is, or nothing."""
        rid, least = self.layers.get(wish.mid), wish.layers[0]
        return rid is None or (rid, self.extents[wish.mid]) == (least.rid, least.extent)


def allocate(
    estimate_bps: float, wishes: Sequence[Wish], audio_bps: float = 0.0, *, may_pause: bool = True
) -> Allocation:
    """Return the layer of each slot that an estimate allows; audio is taken off first.

    With `may_pause` false everybody gets the lowest layer at least, whatever the estimate.
    """
    ordered = sorted(wishes, key=lambda wish: (not wish.pinned, -wish.priority, wish.shown is None))
    ladders = {wish.mid: wish.usable() for wish in ordered}
    chosen: dict[str, int] = {wish.mid: -1 for wish in ordered}
    budget = estimate_bps - audio_bps
    used = 0.0
    is_first = True
    for wish in ordered:
        ladder = ladders[wish.mid]
        if not ladder:
            continue
        cost = ladder[0].bitrate_bps
        spare = 1.0 if wish.shown is not None else HEADROOM
        least = cost * _LAST_RESORT if is_first else used + cost
        fits = least * spare <= budget
        if fits or not may_pause:
            chosen[wish.mid] = 0
            used += cost
        is_first = False
    used = _raise_layers(ordered, ladders, chosen, budget, used)
    with_layers = {mid: index for mid, index in chosen.items() if ladders[mid]}
    sent = {mid: ladders[mid][index] for mid, index in with_layers.items() if index >= 0}
    layers = {mid: sent[mid].rid if mid in sent else None for mid in with_layers}
    limited = frozenset(mid for mid, index in with_layers.items() if index + 1 < len(ladders[mid]))
    extents = {mid: layer.extent for mid, layer in sent.items()}
    next_bps = audio_bps + _next_cost(ordered, ladders, chosen, used)
    return Allocation(layers, limited, audio_bps + used, next_bps, extents)


def _raise_layers(
    ordered: list[Wish],
    ladders: dict[str, tuple[LayerOption, ...]],
    chosen: dict[str, int],
    budget: float,
    used: float,
) -> float:
    """Go up a step at a time, in turn within one priority; return what is used then."""
    ranks = sorted({(not wish.pinned, -wish.priority) for wish in ordered})
    for rank in ranks:
        group = [wish for wish in ordered if (not wish.pinned, -wish.priority) == rank]
        for again in (True, False):  # what is shown already comes first
            raised = True
            while raised:
                raised = False
                for wish in group:
                    ladder, index = ladders[wish.mid], chosen[wish.mid]
                    if index < 0 or index + 1 >= len(ladder):
                        continue
                    more = ladder[index + 1].bitrate_bps - ladder[index].bitrate_bps
                    shown = _place(ladder, wish)
                    # Below what is shown nothing is new: only what exceeds it needs room to spare.
                    spare = 1.0 if index + 1 <= shown else HEADROOM
                    if again <= (spare == 1.0) and (used + more) * spare <= budget:
                        chosen[wish.mid] = index + 1
                        used += max(0.0, more)
                        raised = True
    return used


def _place(ladder: tuple[LayerOption, ...], wish: Wish) -> int:
    """Return which step of a ladder is shown; -1: none of them."""
    what = (wish.shown, wish.extent)
    return next((i for i, layer in enumerate(ladder) if (layer.rid, layer.extent) == what), -1)


def _next_cost(
    ordered: list[Wish], ladders: dict[str, tuple[LayerOption, ...]], chosen: dict[str, int], used: float
) -> float:
    """Return the cost of the cheapest step up from what was chosen, with the room it needs."""
    steps = []
    for wish in ordered:
        ladder, index = ladders[wish.mid], chosen[wish.mid]
        if index + 1 < len(ladder):
            now = ladder[index].bitrate_bps if index >= 0 else 0.0
            steps.append(used + ladder[index + 1].bitrate_bps - now)
    return min(steps) * HEADROOM if steps else used
