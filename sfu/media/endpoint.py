"""Where the packets of one peer come in decrypted, and go out encrypted.

The part of a peer connection that every packet passes; `PeerConnection` negotiates, and gives it the keys.
"""

import secrets
from collections.abc import Callable
from typing import Final

from sfu.media import rtcp
from sfu.media.batch import Lane
from sfu.media.ice import IceLite
from sfu.media.packet import MAX_PACKET_BYTES
from sfu.media.ports import Endpoint, MediaPorts, Path, UdpPath
from sfu.media.rtp_session import RtpSession
from sfu.media.srtp import Rows, SrtpContext

# RTCP compounds a second that one peer is listened to: feedback twenty times, reports, and a request for
# every lost packet of a bad link stay far below. More is dropped before it is decrypted.
MAX_RTCP_PER_S: Final = 400

# Of them requests to send again, for each slot: libwebrtc looks every 20 ms at what is missing. One names up
# to hundreds of packets, and costs as much as several reports.
MAX_NACKS_PER_SLOT_S: Final = 50

# What SRTCP adds at most: index and tag (RFC 7714). A packet behind the first one is longer.
MAX_SRTCP_TRAILER_BYTES: Final = 20


def _nobody() -> None:
    """Tell nobody of a check."""


def _nothing(_record: bytes) -> bool:
    """Take no record."""
    return False


class PeerEndpoint(Endpoint):
    """One peer as the ports see it, and the outlet of its RTP session."""

    def __init__(
        self, ports: MediaPorts, validated: Callable[[], None], take_dtls: Callable[[bytes], bool]
    ) -> None:
        """Begin without keys.

        `validated` is told of every authentic check; `take_dtls` takes a record, or says that too many wait.
        """
        self._ports, self.counters = ports, ports.counters
        self._validated, self._take_dtls = validated, take_dtls
        self.ice = IceLite()
        # None until DTLS has agreed on them.
        self.incoming: SrtpContext | None = None
        self.outgoing: SrtpContext | None = None
        self.rtp = RtpSession(self, secrets.randbits(32))
        # Our counter of transport-wide sequence numbers, and the path that the fan-outs know.
        self._number_place = ports.bank.take()
        self._lane_path: Path | None = None
        # RTCP compounds that it may send at once, and when that was looked at.
        self._rtcp_budget, self._rtcp_at = float(MAX_RTCP_PER_S), 0.0

    def key(self, incoming: SrtpContext, outgoing: SrtpContext) -> None:
        """Take the keys: what was agreed to be sent goes out from now on."""
        self.incoming, self.outgoing = incoming, outgoing
        self.rtp.subscriptions.lanes_changed()

    def close(self) -> None:
        """Send what waits, and be unknown to the ports.

        Nobody refers back to whom he is known by afterwards: memory of those who have gone comes back at
        once, not when the garbage collector looks at everything.
        """
        self._ports.flush()
        self._ports.unregister(self)
        self._ports.bank.give_back(self._number_place)
        self.incoming = self.outgoing = None
        self._validated, self._take_dtls = _nobody, _nothing
        self.rtp.release()

    # From the ports

    def path_validated(self, now: float) -> None:
        """A check was authentic: there is a way to the client."""
        if self.ice.selected is not self._lane_path:
            self._lane_path = self.ice.selected
            self.rtp.subscriptions.lanes_changed()
        self._validated()

    def receive_dtls(self, data: bytes) -> None:
        """Hand a record on."""
        if not self._take_dtls(data):
            self.counters.drop("dtls_queue_full")

    def receive_media(self, rows: Rows, index: int, length: int, now: float, arrived: float) -> None:
        """Decrypt a packet in its row, and follow it; `arrived`: when the kernel got it."""
        incoming = self.incoming
        if incoming is None or length < 12:
            self.counters.drop("before_keys")
            return
        # RFC 5761 section 4: RTCP types 192-223 are no RTP payload types.
        second = rows.buffer[index * rows.stride + 1]
        if 192 <= second <= 223:
            if second == rtcp.RTPFB and self._is_surplus(rows, index, length, now):
                self.counters.feedback_skipped += 1
            else:
                self._receive_rtcp(incoming, rows, index, length, now)
            return
        data = incoming.open(rows, index, length)
        if data is not None:
            self.rtp.receive_rtp(data, now, arrived)
        else:
            self.counters.drop("srtp_not_authentic")

    def _receive_rtcp(self, incoming: SrtpContext, rows: Rows, index: int, length: int, now: float) -> None:
        """Decrypt a compound, as long as its sender does not flood us with them."""
        self._rtcp_budget += (now - self._rtcp_at) * MAX_RTCP_PER_S
        self._rtcp_budget, self._rtcp_at = min(self._rtcp_budget, float(MAX_RTCP_PER_S)), now
        at, buffer, cost = index * rows.stride, rows.buffer, 1.0
        if buffer[at + 1] == rtcp.RTPFB and buffer[at] & 0x1F == rtcp.NACK:
            slots = max(1, len(self.rtp.subscriptions.legs))
            cost = max(1.0, MAX_RTCP_PER_S / (MAX_NACKS_PER_SLOT_S * slots))
        if self._rtcp_budget < cost:
            self.counters.drop("rtcp_flood")
            return
        self._rtcp_budget -= cost
        rows.set_length(index, length)
        if incoming.unprotect_rtcp(rows, index):
            self.rtp.receive_rtcp(rows.take(index), now)
        else:
            self.counters.drop("srtcp_not_authentic")

    def _is_surplus(self, rows: Rows, index: int, length: int, now: float) -> bool:
        """Tell whether a compound is nothing but feedback that nobody needs: its header is not encrypted."""
        if now >= self.rtp.subscriptions.pass_over_until:
            return False
        at, buffer = index * rows.stride, rows.buffer
        alone = 4 + 4 * (buffer[at + 2] << 8 | buffer[at + 3]) + MAX_SRTCP_TRAILER_BYTES >= length
        return alone and buffer[at] & 0x1F == 15

    # The outlet of the RTP session

    def ready(self) -> bool:
        """Tell whether there is a path and a key."""
        return self.outgoing is not None and self.ice.selected is not None

    def reserve(self) -> tuple[bytearray, int]:
        """Return a buffer and the offset of a free row in it."""
        rows = self._ports.udp.outgoing
        return rows.buffer, self._ports.udp.reserve() * rows.stride

    def send_rtp(self, length: int) -> bool:
        """Protect and queue the row that was reserved last."""
        udp, outgoing, path = self._ports.udp, self.outgoing, self.ice.selected
        if outgoing is None or path is None:
            return False
        index = udp.reserve()
        udp.outgoing.set_length(index, length)
        if not outgoing.protect(udp.outgoing, index):
            self.counters.drop("srtp_refused")
            return False
        self._ports.send_row(path)
        return True

    def send_rtcp(self, data: bytes) -> None:
        """Protect and queue a compound."""
        udp, outgoing, path = self._ports.udp, self.outgoing, self.ice.selected
        if outgoing is None or path is None or len(data) > MAX_PACKET_BYTES:
            return
        index = udp.reserve()
        udp.outgoing.put(index, data)
        if outgoing.protect_rtcp(udp.outgoing, index):
            self._ports.send_row(path)

    def send_dtls(self, data: bytes) -> None:
        """Send a record at once."""
        if self.ice.selected is not None:
            self.ice.selected.send_now(data)

    def next_transport_number(self, size: int, now: float) -> int:
        """Return the next transport-wide sequence number, for a packet of so many bytes."""
        return self._ports.bank.next(self._number_place, size, now)

    def recall(self, first: int, count: int, now: float) -> tuple[list[float], list[int]]:
        """Return when the packets from a transport-wide number on were sent, and their sizes."""
        return self._ports.bank.recall(self._number_place, first, count, now)

    def recall_bytes(self, first: int, count: int) -> int:
        """Return the bytes of the packets from a transport-wide number on."""
        return self._ports.bank.recall_bytes(self._number_place, first, count)

    def lane(self) -> Lane | None:
        """Return the way of this peer's packets in a batch; None where it has none (TCP)."""
        outgoing, path, ports = self.outgoing, self.ice.selected, self._ports
        if outgoing is None or not isinstance(path, UdpPath):
            return None
        self._lane_path = path
        return Lane(ports.udp, outgoing, path.sockaddr, ports.bank, self._number_place, self.counters)
