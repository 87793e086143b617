"""One incoming packet to everybody who receives its track.

The one place where the cost of a call is made. `FanOut` is the whole interface: a faster
way of doing it takes this one's place and nothing else changes.
"""

from typing import Generic, Protocol, TypeVar

from sfu.media.packet import RtpPacket

LayerT = TypeVar("LayerT", contravariant=True)
LayerV = TypeVar("LayerV")


class Receiver(Protocol[LayerT]):
    """One leg, as the fan-out sees it."""

    def forward(self, layer: LayerT, packet: RtpPacket, now: float) -> None:
        """Send a packet of a layer on, if this leg takes that layer."""

    def layers_changed(self, now: float) -> None:
        """Choose again among the layers of the track."""

    def format_changed(self, now: float) -> None:
        """Map payload types and extensions of the track anew."""


class FanOut(Generic[LayerV]):
    """The legs of one track, one after the other."""

    __slots__ = ("legs",)

    def __init__(self) -> None:
        self.legs: list[Receiver[LayerV]] = []

    def add(self, leg: Receiver[LayerV]) -> None:
        self.legs.append(leg)

    def remove(self, leg: Receiver[LayerV]) -> None:
        """Take a leg out; it may be gone already."""
        if leg in self.legs:
            self.legs.remove(leg)

    def forward(self, layer: LayerV, packet: RtpPacket, now: float) -> None:
        """Offer a packet to every leg."""
        for leg in self.legs:
            leg.forward(layer, packet, now)
