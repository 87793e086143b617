"""One incoming packet to everybody who receives its track.

The one place where the cost of a call is made. Receivers of one layer that share a profile
go as a batch of rows (`sfu/media/batch.py`); the others, and whoever waits for a keyframe, one
by one. A leg says when it changed; then its own place is found anew, and nobody else's.
"""

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from sfu.media.batch import MAX_LEGS, MIN_LEGS, Batch, BatchLeg, Lane
from sfu.media.packet import RtpPacket
from sfu.media.profile import Profile

# Whoever comes within this time goes into one group; groups become one after a time without anybody.
GATHER_S, SETTLE_S = 0.25, 2.0

# Small groups beside the large one; more become one at once.
MAX_GROUPS = 3

LayerT = TypeVar("LayerT")


class Receiver(BatchLeg, Protocol[LayerT]):
    """One leg, as the fan-out sees it."""

    layer: LayerT | None
    target: LayerT | None

    def begin(self, layer: LayerT, packet: RtpPacket, now: float) -> None:
        """Take up the layer for which this leg waits, if it can begin with this packet; send nothing."""

    def forward(self, layer: LayerT, packet: RtpPacket, now: float) -> None:
        """Send a packet of a layer on, if this leg shows that layer."""

    def layers_changed(self, now: float) -> None:
        """Choose again among the layers of the track."""

    def format_changed(self, now: float) -> None:
        """Map payload types and extensions of the track anew."""

    def lane(self) -> tuple[Lane, Profile, int] | None:
        """Return the way into a batch, or None if this leg must be sent to by itself."""

    def enter(self, batch: Batch | None) -> None:
        """Take note of the batch that sends for this leg; None: it sends itself."""


class _Group(Generic[LayerT]):
    """Legs that a batch sends for; without a batch it is to be made before the next packet."""

    __slots__ = ("batch", "key", "legs")

    def __init__(self, legs: list[Receiver[LayerT]], key: int) -> None:
        self.legs, self.key = legs, key
        self.batch: Batch | None = None


class _Plan(Generic[LayerT]):
    """Who takes the packets of one layer, and how."""

    __slots__ = ("gather_at", "groups", "settle_at", "singles", "waiting")

    def __init__(self) -> None:
        self.groups: list[_Group[LayerT]] = []
        # Legs that show this layer but are not in a group: they cannot be, or came a moment ago.
        self.singles: list[Receiver[LayerT]] = []
        # Legs that will show it from its next keyframe on.
        self.waiting: list[Receiver[LayerT]] = []
        # When singles are looked at for a group, and when small groups become one.
        self.gather_at = self.settle_at = float("inf")


class FanOut(Generic[LayerT]):
    """The legs of one track.

    A change of one leg costs what one leg costs: whoever joins is sent to singly at first, gathered
    into a small group soon, and the groups become one when nobody has come for a while.
    """

    __slots__ = ("_changed", "_plans", "legs")

    def __init__(self) -> None:
        self.legs: list[Receiver[LayerT]] = []
        self._plans: dict[LayerT, _Plan[LayerT]] = {}
        # Legs whose place is to be found anew before the next packet; a dict keeps their order.
        self._changed: dict[Receiver[LayerT], None] = {}

    @property
    def together(self) -> int:
        """How many legs batches send for."""
        plans = self._plans.values()
        return sum(len(group.legs) for plan in plans for group in plan.groups if group.batch is not None)

    def add(self, leg: Receiver[LayerT]) -> None:
        self.legs.append(leg)
        self._changed[leg] = None

    def remove(self, leg: Receiver[LayerT]) -> None:
        """Take a leg out; it may be gone already."""
        if leg in self.legs:
            self.legs.remove(leg)
            self._changed.pop(leg, None)
            self._take_out(leg)
            if not self.legs:
                self._plans.clear()

    def changed(self, leg: Receiver[LayerT]) -> None:
        """Find the place of a leg anew before the next packet: it is not what it was."""
        self._changed[leg] = None

    def forward(self, layer: LayerT, packet: RtpPacket, now: float) -> None:
        """Send a packet to every leg that takes it, or begins with it."""
        self._begin(layer, packet, now)
        self._send(layer, packet, now)

    def forward_parts(self, parts: Sequence[tuple[LayerT, RtpPacket]], now: float) -> None:
        """Send what several layers have of one packet; who goes over from one to another gets it once."""
        for layer, packet in parts:
            self._begin(layer, packet, now)
        for layer, packet in parts:
            self._send(layer, packet, now)

    def _begin(self, layer: LayerT, packet: RtpPacket, now: float) -> None:
        if self._changed:
            self._sort_in(now)
        plan = self._plans.get(layer)
        if plan is not None and plan.waiting:
            for leg in plan.waiting:
                leg.begin(layer, packet, now)

    def _send(self, layer: LayerT, packet: RtpPacket, now: float) -> None:
        if self._changed:
            self._sort_in(now)
        plan = self._plans.get(layer)
        if plan is None:
            return
        if now >= plan.gather_at:
            self._gather(plan, now)
        elif now >= plan.settle_at:
            plan.settle_at = float("inf")
            self._merge(plan, plan.groups)
        for group in plan.groups:
            batch = group.batch or self._batch(group)
            if batch is not None and batch.takes(packet):
                batch.forward(packet, now)
            else:
                for leg in group.legs:
                    leg.forward(layer, packet, now)
        for leg in plan.singles:
            leg.forward(layer, packet, now)

    # Places

    def _sort_in(self, now: float) -> None:
        changed, self._changed = self._changed, {}
        for leg in changed:
            self._take_out(leg)
            if leg not in self.legs:
                continue
            if leg.target is not None and leg.target is not leg.layer:
                self._plan_of(leg.target).waiting.append(leg)
            if leg.layer is not None:
                plan = self._plan_of(leg.layer)
                plan.singles.append(leg)
                if leg.lane() is not None:
                    plan.gather_at = min(plan.gather_at, now + GATHER_S)
        # A layer that nobody takes any more may be gone for good.
        self._plans = {
            layer: plan for layer, plan in self._plans.items() if plan.groups or plan.singles or plan.waiting
        }

    def _plan_of(self, layer: LayerT) -> _Plan[LayerT]:
        return self._plans.setdefault(layer, _Plan())

    def _take_out(self, leg: Receiver[LayerT]) -> None:
        leg.enter(None)
        for plan in self._plans.values():
            for places in (plan.singles, plan.waiting):
                if leg in places:
                    places.remove(leg)
            for group in plan.groups:
                if leg in group.legs:
                    self._dissolve(group)
                    group.legs.remove(leg)
                    if len(group.legs) < MIN_LEGS:
                        plan.groups.remove(group)
                        plan.singles.extend(group.legs)
                        plan.gather_at = 0.0  # it may fit another group
                    break

    def _dissolve(self, group: _Group[LayerT]) -> None:
        if group.batch is not None:
            for leg in group.legs:
                leg.enter(None)
            group.batch = None

    def _gather(self, plan: _Plan[LayerT], now: float) -> None:
        """Make groups of the singles that can be sent to together."""
        plan.gather_at, plan.settle_at = float("inf"), now + SETTLE_S
        together: dict[int, list[Receiver[LayerT]]] = {}
        for leg in plan.singles:
            way = leg.lane()
            if way is not None:
                together.setdefault(way[2], []).append(leg)
        for key, legs in together.items():
            existing = [group for group in plan.groups if group.key == key]
            if len(legs) < MIN_LEGS and not existing:
                continue
            plan.singles = [leg for leg in plan.singles if leg not in legs]
            fresh = self._group(plan, legs, key)
            # The largest is left alone until it is quiet: to make it anew costs as much as it is large.
            smaller = sorted([*existing, *fresh], key=lambda group: len(group.legs))[:-1]
            if len(existing) >= MAX_GROUPS or len(legs) < MIN_LEGS:
                self._merge(plan, smaller if len(smaller) > 1 else [*existing, *fresh])

    def _merge(self, plan: _Plan[LayerT], groups: list[_Group[LayerT]]) -> None:
        """Make one of groups that share a profile, or as few as their size allows."""
        by_key: dict[int, list[_Group[LayerT]]] = {}
        for group in groups:
            by_key.setdefault(group.key, []).append(group)
        for key, alike in by_key.items():
            if len(alike) == 1 and len(alike[0].legs) <= MAX_LEGS:
                continue
            legs = [leg for group in alike for leg in group.legs]
            for group in alike:
                self._dissolve(group)
                plan.groups.remove(group)
            self._group(plan, legs, key)

    def _group(self, plan: _Plan[LayerT], legs: list[Receiver[LayerT]], key: int) -> list[_Group[LayerT]]:
        """Add legs to a plan in groups as large as they may be; a rest that is too few stays single."""
        chunks = [legs[at : at + MAX_LEGS] for at in range(0, len(legs), MAX_LEGS)]
        if len(chunks) > 1 and len(chunks[-1]) < MIN_LEGS:
            plan.singles += chunks.pop()
        groups = [_Group(chunk, key) for chunk in chunks]
        plan.groups += groups
        return groups

    def _batch(self, group: _Group[LayerT]) -> Batch | None:
        """Make the batch of a group; None if a leg of it cannot be in one any more."""
        ways = [leg.lane() for leg in group.legs]
        for leg, way in zip(group.legs, ways, strict=True):
            if way is None or way[2] != group.key:
                self.changed(leg)
        found = [way for way in ways if way is not None and way[2] == group.key]
        if len(found) < len(group.legs):
            return None
        batch = group.batch = Batch(group.legs, [lane for lane, *_ in found], found[0][1], group.key)
        for leg in group.legs:
            leg.enter(batch)
        return batch
