"""How legs send: the peer behind them, or nobody once it has gone."""

from typing import Final, Protocol

from sfu.counters import MediaCounters
from sfu.media.batch import Lane
from sfu.media.datagrams import STRIDE


class Outlet(Protocol):
    """How a leg sends: the peer behind it."""

    counters: MediaCounters

    def ready(self) -> bool:
        """Tell whether there is a path and a key."""

    def reserve(self) -> tuple[bytearray, int]:
        """Return a buffer and the offset of a free row in it."""

    def send_rtp(self, length: int) -> bool:
        """Protect and queue the row that was reserved last."""

    def next_transport_number(self, size: int, now: float) -> int:
        """Return the next transport-wide sequence number, for a packet of so many bytes."""

    def lane(self) -> Lane | None:
        """Return the way of this peer's packets in a batch; None where it has none (TCP)."""


class SubscriberOutlet(Outlet, Protocol):
    """How legs send, and what was sent lately."""

    def send_rtcp(self, data: bytes) -> None:
        """Protect and queue a compound."""

    def recall(self, first: int, count: int, now: float) -> tuple[list[float], list[int]]:
        """Return when the packets from a transport-wide number on were sent, and their sizes."""

    def recall_bytes(self, first: int, count: int) -> int:
        """Return the bytes of the packets from a transport-wide number on."""


class Nowhere:
    """The outlet of a peer that has gone: nothing leaves by it, and it keeps nobody in memory."""

    def __init__(self) -> None:
        self.counters = MediaCounters()

    def ready(self) -> bool:
        return False

    def reserve(self) -> tuple[bytearray, int]:
        return bytearray(STRIDE), 0

    def send_rtp(self, length: int) -> bool:
        return False

    def send_rtcp(self, data: bytes) -> None:
        """Send nothing."""

    def next_transport_number(self, size: int, now: float) -> int:
        return 0

    def lane(self) -> Lane | None:
        return None

    def recall(self, first: int, count: int, now: float) -> tuple[list[float], list[int]]:
        return [], []

    def recall_bytes(self, first: int, count: int) -> int:
        return 0


NOWHERE: Final = Nowhere()
