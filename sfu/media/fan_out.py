"""One incoming packet to everybody who receives its track.

The one place where the cost of a call is made. Receivers of one layer that share a profile
go as a batch of rows (`sfu/media/batch.py`); the others, and whoever waits for a keyframe, one
by one. Who goes which way is worked out again when a leg says that it changed.
"""

from typing import Generic, Protocol, TypeVar

from sfu.media.batch import MAX_LEGS, MIN_LEGS, Batch, BatchLeg, Lane
from sfu.media.packet import RtpPacket
from sfu.media.profile import Profile

LayerT = TypeVar("LayerT")


class Receiver(BatchLeg, Protocol[LayerT]):
    """One leg, as the fan-out sees it."""

    layer: LayerT | None
    target: LayerT | None

    def forward(self, layer: LayerT, packet: RtpPacket, now: float) -> None:
        """Send a packet of a layer on, if this leg takes that layer."""

    def layers_changed(self, now: float) -> None:
        """Choose again among the layers of the track."""

    def format_changed(self, now: float) -> None:
        """Map payload types and extensions of the track anew."""

    def lane(self) -> tuple[Lane, Profile, int] | None:
        """Return the way into a batch, or None if this leg must be sent to by itself."""

    def enter(self, batch: Batch | None) -> None:
        """Take note of the batch that sends for this leg; None: it sends itself."""


class _Plan(Generic[LayerT]):
    """Who takes the packets of one layer, and how."""

    __slots__ = ("batches", "singles", "waiting")

    def __init__(self) -> None:
        self.batches: list[tuple[Batch, list[Receiver[LayerT]]]] = []
        # Legs that show this layer but are not in a batch.
        self.singles: list[Receiver[LayerT]] = []
        # Legs that will show it from its next keyframe on.
        self.waiting: list[Receiver[LayerT]] = []


class FanOut(Generic[LayerT]):
    """The legs of one track."""

    __slots__ = ("_plans", "_stale", "legs")

    def __init__(self) -> None:
        self.legs: list[Receiver[LayerT]] = []
        self._plans: dict[LayerT, _Plan[LayerT]] = {}
        self._stale = False

    def add(self, leg: Receiver[LayerT]) -> None:
        self.legs.append(leg)
        self._stale = True

    def remove(self, leg: Receiver[LayerT]) -> None:
        """Take a leg out; it may be gone already."""
        if leg in self.legs:
            self.legs.remove(leg)
            leg.enter(None)
            self._stale = True

    def changed(self) -> None:
        """Work the plan out again before the next packet: a leg is not what it was."""
        self._stale = True

    def forward(self, layer: LayerT, packet: RtpPacket, now: float) -> None:
        """Send a packet to every leg that takes it."""
        if self._stale:
            self._plan()
        plan = self._plans.get(layer)
        if plan is None:
            return
        for batch, legs in plan.batches:
            if batch.takes(packet):
                batch.forward(packet, now)
            else:
                for leg in legs:
                    leg.forward(layer, packet, now)
        for leg in plan.singles:
            leg.forward(layer, packet, now)
        for leg in plan.waiting:
            leg.forward(layer, packet, now)

    def _plan(self) -> None:
        self._stale = False
        for leg in self.legs:
            leg.enter(None)
        for plan in self._plans.values():
            for batch, _ in plan.batches:
                batch.close()
        plans: dict[LayerT, _Plan[LayerT]] = {}
        together: dict[tuple[LayerT, int], list[tuple[Receiver[LayerT], Lane, Profile, int]]] = {}
        for leg in self.legs:
            if leg.target is not None and leg.target is not leg.layer:
                plans.setdefault(leg.target, _Plan()).waiting.append(leg)
            if leg.layer is None:
                continue
            plan = plans.setdefault(leg.layer, _Plan())
            way = leg.lane()
            if way is None:
                plan.singles.append(leg)
            else:
                together.setdefault((leg.layer, way[2]), []).append((leg, *way))
        for (layer, key), members in together.items():
            for at in range(0, len(members), MAX_LEGS):
                chunk = members[at : at + MAX_LEGS]
                self._assign(plans[layer], chunk, key)
        self._plans = plans

    def _assign(
        self, plan: _Plan[LayerT], members: list[tuple[Receiver[LayerT], Lane, Profile, int]], key: int
    ) -> None:
        legs = [leg for leg, *_ in members]
        if len(legs) < MIN_LEGS:
            plan.singles.extend(legs)
            return
        batch = Batch(legs, [lane for _, lane, *_ in members], members[0][2], key)
        for leg in legs:
            leg.enter(batch)
        plan.batches.append((batch, legs))
