"""Every leg gets every packet of the track, in the order in which the legs came."""

from sfu.media.fan_out import FanOut
from sfu.media.packet import RtpPacket
from tests.unit.media.scene import rtp


class Leg:
    """A receiver that notes what it was offered, in a list that all share."""

    def __init__(self, name: str, seen: list) -> None:
        self.name, self.seen = name, seen

    def forward(self, layer: str, packet: RtpPacket, now: float) -> None:
        self.seen.append((self.name, layer, packet, now))

    def layers_changed(self, now: float) -> None:
        raise AssertionError("no layer changed")


def test_every_leg_is_offered_every_packet():
    """Of whatever layer; the leg decides."""
    fan_out, seen, packet = FanOut(), [], rtp()
    for name in "ab":
        fan_out.add(Leg(name, seen))
    fan_out.forward("layer", packet, 1.0)
    assert seen == [("a", "layer", packet, 1.0), ("b", "layer", packet, 1.0)]


def test_a_leg_that_left_gets_nothing():
    """It may leave twice."""
    fan_out, seen = FanOut(), []
    stays, leaves = Leg("stays", seen), Leg("leaves", seen)
    fan_out.add(stays)
    fan_out.add(leaves)
    fan_out.remove(leaves)
    fan_out.remove(leaves)
    fan_out.forward("layer", rtp(), 1.0)
    assert [name for name, *_ in seen] == ["stays"]


def test_nobody_listens():
    """A packet without receivers is nobody's."""
    FanOut().forward("layer", rtp(), 1.0)
