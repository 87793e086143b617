"""What one incoming packet costs in the fan-out, by the number of receivers.

Three ways of plain Python in turn: leg by leg, as a batch whose rows are written one by one, and by columns.

    python bench/fan_out.py [--cold] [receivers ...]

`--cold`: half a millisecond of sleep before each packet, as between those of a live call. The caches are
others' by then, and everything costs two to three times what it does in a loop.

Packets go to sockets of this process that drop them: the kernel's sending is in the figure,
its delivery to a reader is not. CPU time of this thread, µs per outgoing packet.
"""

import argparse
import os
import socket
import struct
import time

from pylibsrtp import Policy, Session

from sfu.counters import MediaCounters
from sfu.media import audience, fan_out
from sfu.media.batch import Lane
from sfu.media.codecs import Codec
from sfu.media.leg import Leg
from sfu.media.negotiation import ABS_SEND_TIME_URI, TRANSPORT_CC_URI, Section, Sending
from sfu.media.number_bank import NumberBank
from sfu.media.packet import RtpPacket, build
from sfu.media.srtp import SrtpContext
from sfu.media.track import Layer, Track
from sfu.media.udp import UdpPort

PAYLOAD, RUNS = 1_100, 5
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


def measure(receivers: int, least: int, few: int, packets: int, *, pause_s: float = 0.0) -> float:
    """Return µs of CPU per outgoing packet; batches of `least` legs on, row by row of `few` at most."""
    fan_out.MIN_LEGS, audience.FEW_LEGS = least, few
    audience.native = None  # plain Python, also in a tree that is compiled
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
    used = 0.0
    for sequence in range(200, 200 + packets):
        packet = RtpPacket(build(96, sequence, sequence * 3000, 1, payload))
        if pause_s:
            time.sleep(pause_s)
        began = time.thread_time()
        track.fan_out.forward(layer, packet, 1.0)
        port.flush()
        used += time.thread_time() - began
    port.close()
    sink.close()
    return used / packets / receivers * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("receivers", type=int, nargs="*", default=[1, 2, 3, 4, 6, 9, 20, 100, 250])
    parser.add_argument("--cold", action="store_true", help="sleep before each packet")
    options = parser.parse_args()
    pause_s, total = (0.0005, 20_000) if options.cold else (0.0, 100_000)
    ways = {"leg by leg": (10_000, 0), "row by row": (1, 10_000), "by columns": (1, 0)}
    print(f"{'receivers':>9}", *(f"{name:>11}" for name in ways))
    for receivers in options.receivers:
        packets = total // max(30, receivers)
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(RUNS):
            for name, (least, few) in ways.items():
                found[name].append(measure(receivers, least, few, packets, pause_s=pause_s))
        # What others take of the machine only adds.
        print(f"{receivers:>9}", *(f"{min(each):>11.2f}" for each in found.values()))


if __name__ == "__main__":
    main()
