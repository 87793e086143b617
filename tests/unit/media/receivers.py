"""Receivers behind one row outlet, with real SRTP: what the tests of the batch share."""

import numpy as np
from pylibsrtp import Policy, Session

from sfu.counters import MediaCounters
from sfu.media import audience, kernel
from sfu.media.batch import Lane
from sfu.media.datagrams import BURST, STRIDE, Burst, Held, RowOutlet
from sfu.media.leg import Leg
from sfu.media.negotiation import Section, Sending
from sfu.media.number_bank import NumberBank
from sfu.media.packet import RtpPacket
from sfu.media.srtp import Rows, SrtpContext

WINDOW = 1024

# The ways to write a packet for its receivers: the last only where it was compiled.
WAYS = ["by columns", "row by row", *(["in one call"] if kernel.native is not None else [])]


def write_rows(monkeypatch, way: str) -> None:
    """Have audiences written in one of `WAYS`."""
    monkeypatch.setattr(audience, "FEW_LEGS", 0 if way == "by columns" else audience.FEW_LEGS)
    monkeypatch.setattr(audience, "native", kernel.native if way == "in one call" else None)


def policy(key: bytes, direction: int) -> Policy:
    made = Policy(key=key, ssrc_type=direction, srtp_profile=Policy.SRTP_PROFILE_AEAD_AES_128_GCM)
    made.allow_repeat_tx, made.window_size = True, WINDOW
    return made


class RowPort(RowOutlet):
    """Where rows go out: each is noted, as it is encrypted, for its address.

    What a batch has written goes out before anything else, or when somebody looks: so packets wait for each
    other here as long as they ever may.
    """

    def __init__(self, count: int = 32) -> None:
        self.outgoing = Rows(count, STRIDE)
        self.burst = Burst(count, STRIDE)
        self.bank, self.counters = NumberBank(), MediaCounters()
        self._sent: dict[bytes, list[bytes]] = {}
        self._held: Held | None = None
        self._packets = 0
        self._blocks: list[int] = []
        self.is_full = False
        for packet in range(BURST):
            self._soil(self.burst.rows(packet))

    @property
    def sent(self) -> dict[bytes, list[bytes]]:
        self.release()
        return self._sent

    @property
    def blocks(self) -> list[int]:
        """How many each packet of a batch went to."""
        self.release()
        return self._blocks

    def _soil(self, rows: Rows) -> None:
        # What others left in the rows is nobody's; it must never be sent.
        rows.matrix[:] = 0xEE
        rows.lengths[:] = STRIDE - 1

    def hold(self, held: Held, length: int) -> int:
        assert 0 < length < STRIDE
        if self._held is not held or self._packets == BURST:
            self.release()
            self._held, self._packets = held, 0
        self._packets += 1
        return self._packets - 1

    def release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.release(self._packets)

    def send_rows(self, names: bytes, count: int, packets: int = 1, refused: int = 0) -> bool:
        assert len(names) == 16 * count
        for packet in range(packets):
            rows = self.burst.rows(packet)
            self._blocks.append(count)
            refused -= count - np.count_nonzero(rows.lengths[:count])
            # The row behind the last is nobody's.
            assert (rows.matrix[count] == 0xEE).all()
            for index in range(count):
                data = rows.take(index)
                if data:
                    self._sent.setdefault(names[16 * index : 16 * index + 16], []).append(data)
            self._soil(rows)
        assert refused == 0
        return not self.is_full

    def commit(self, index: int, sockaddr: bytes) -> None:
        data = self.outgoing.take(index)
        if data:
            self.sent.setdefault(sockaddr, []).append(data)


class Peer:
    """One receiver: its key, its address, its place among the transport-wide numbers."""

    def __init__(self, port: RowPort, number: int) -> None:
        self.port, self.counters = port, port.counters
        self.sockaddr = number.to_bytes(16, "big")
        self._key = bytes((number,)) * 28
        self.context = SrtpContext(Session(policy(self._key, Policy.SSRC_ANY_OUTBOUND)))
        self.place = port.bank.take()
        port.bank.values[self.place] = 0xFFF0 + number
        self.open = self.on_udp = True

    def ready(self) -> bool:
        return self.open

    def reserve(self) -> tuple[bytearray, int]:
        self.port.release()
        return self.port.outgoing.buffer, STRIDE

    def send_rtp(self, length: int) -> bool:
        self.port.outgoing.set_length(1, length)
        done = self.context.protect(self.port.outgoing, 1)
        self.port.commit(1, self.sockaddr)
        return done

    def next_transport_number(self, size: int, now: float) -> int:
        return self.port.bank.next(self.place, size, now)

    def lane(self) -> Lane | None:
        port = self.port
        if not self.on_udp:
            return None
        return Lane(port, self.context, self.sockaddr, port.bank, self.place, port.counters)

    @property
    def encrypted(self) -> list[bytes]:
        return self.port.sent.get(self.sockaddr, [])

    def received(self) -> list[RtpPacket]:
        """What came, as a stock session of the same key decrypts it; the same bits twice are once."""
        session = Session(policy(self._key, Policy.SSRC_ANY_INBOUND))
        return [RtpPacket(session.unprotect(data)) for data in dict.fromkeys(self.encrypted)]


def make_leg(port: RowPort, number: int, agreed: Section, first_sequence: int | None) -> tuple[Leg, Peer]:
    peer = Peer(port, number)
    sending = Sending(5000 + 2 * number, 5001 + 2 * number, "stream")
    return Leg(agreed, sending, peer, first_sequence), peer
