"""What one incoming packet costs in the fan-out, by the number of receivers: batch against leg by leg.

    python bench/fan_out.py [receivers ...]

Packets go to sockets of this process that drop them: the kernel's sending is in the figure,
its delivery to a reader is not. CPU time of this thread, µs per outgoing packet.
"""

import os
import socket
import struct
import sys
import time

from pylibsrtp import Policy, Session

from sfu.media import batch, fan_out
from sfu.media.batch import Lane
from sfu.media.codecs import Codec
from sfu.media.leg import Leg
from sfu.media.negotiation import ABS_SEND_TIME_URI, TRANSPORT_CC_URI, Section, Sending
from sfu.media.number_bank import NumberBank
from sfu.media.packet import RtpPacket, build
from sfu.media.srtp import SrtpContext
from sfu.media.track import Layer, Track
from sfu.media.udp import UdpPort
from sfu.metrics import MediaCounters

PAYLOAD = 1_100
VP8 = Codec(96, "vp8", "VP8", 90_000, feedback=("nack", "nack pli"))
RTX = Codec(97, "rtx", "rtx", 90_000, repairs=96)


class Outlet:
    """A peer that is connected, over a real UDP port."""

    def __init__(self, port: UdpPort, bank: NumberBank, sockaddr: bytes) -> None:
        policy = Policy(
            key=os.urandom(28),
            ssrc_type=Policy.SSRC_ANY_OUTBOUND,
            srtp_profile=Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
        )
        policy.allow_repeat_tx, policy.window_size = True, 1024
        self.counters = MediaCounters()
        self._port, self._bank, self._sockaddr = port, bank, sockaddr
        self._context, self._place = SrtpContext(Session(policy)), bank.take()

    def ready(self) -> bool:
        return True

    def reserve(self) -> tuple[bytearray, int]:
        rows = self._port.outgoing
        return rows.buffer, self._port.reserve() * rows.stride

    def send_rtp(self, length: int) -> bool:
        index = self._port.reserve()
        self._port.outgoing.set_length(index, length)
        done = self._context.protect(self._port.outgoing, index)
        self._port.commit(self._sockaddr)
        return done

    def next_transport_number(self, size: int, now: float) -> int:
        return self._bank.next(self._place, size, now)

    def lane(self) -> Lane:
        return Lane(self._port, self._context, self._sockaddr, self._bank, self._place, self.counters)


def measure(receivers: int, least: int, packets: int = 3_000) -> float:
    """Return µs of CPU per outgoing packet."""
    fan_out.MIN_LEGS = batch.MIN_LEGS = least
    port, bank = UdpPort("127.0.0.1", 0, MediaCounters(), time.monotonic), NumberBank()
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sink.bind(("127.0.0.1", 0))
    address = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", sink.getsockname()[1], b"\x7f\0\0\1")
    track = Track("t", "0", "video", "camera", name="", muted=False, request_keyframe=lambda *_: None)
    extensions = {1: ABS_SEND_TIME_URI, 2: TRANSPORT_CC_URI}
    track.agree({96: VP8, 97: RTX}, {}, 0.0)
    layer = Layer(track, "", 1, 90_000)
    track.add_layer(layer, 0.0)
    for number in range(receivers):
        section = Section(0, "0", "video", sends=True, codecs=(VP8, RTX), extensions=extensions)
        sending = Sending(1000 + number, 5000 + number, "s")
        Leg(section, sending, Outlet(port, bank, address), None).attach(track, 0.0)
    payload = b"\x90\x80\x80\x01\x00" + os.urandom(PAYLOAD)
    for sequence in range(200):
        track.fan_out.forward(layer, RtpPacket(build(96, sequence, 0, 1, payload)), 0.0)
        port.flush()
    began = time.thread_time()
    for sequence in range(200, 200 + packets):
        track.fan_out.forward(layer, RtpPacket(build(96, sequence, sequence * 3000, 1, payload)), 1.0)
        port.flush()
    used = time.thread_time() - began
    port.close()
    sink.close()
    return used / packets / receivers * 1e6


def main() -> None:
    print(f"{'receivers':>9}  {'leg by leg':>10}  {'batch':>6}  ratio")
    for receivers in [int(word) for word in sys.argv[1:]] or [1, 2, 3, 4, 6, 9, 20, 100, 250]:
        singly, together = [], []
        for _ in range(3):
            singly.append(measure(receivers, 10_000, 100_000 // max(30, receivers)))
            together.append(measure(receivers, 1, 100_000 // max(30, receivers)))
        one, many = sorted(singly)[1], sorted(together)[1]
        print(f"{receivers:>9}  {one:>10.2f}  {many:>6.2f}  {many / one:.2f}")


if __name__ == "__main__":
    main()
